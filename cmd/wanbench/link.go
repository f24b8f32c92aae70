package main

import "errors"

// linkCmd holds the commands that build, change, watch and remove the lab.
type linkCmd struct {
	Up linkUpCmd `cmd:"" help:"Build the lab and its link."`
}

type linkUpCmd struct{}

// Run builds the lab.
func (linkUpCmd) Run() error { return errors.New("link up: not built yet") }
