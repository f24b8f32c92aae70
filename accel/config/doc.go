// Package config owns the operator's TOML file: its schema, its defaults, strict decoding and every check that can be made before anything starts.
//
// It promises that a Config returned without an error is complete and free of contradictions, so that no later part has to doubt a value, and that a file with
// faults yields all of them at once, each with its line and with what to do about it. It refuses instead of clamping.
//
// Its nouns: a Config is one site's whole configuration; a Fault is one thing wrong at one line; the Reference is the list of all keys, from which the
// documentation is made. The package imports no run-time package of ours; each part of the gateway receives its own section.
package config
