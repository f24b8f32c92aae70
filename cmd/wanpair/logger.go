package main

import (
	"log/slog"
	"os"

	"wanpair/accel/config"
	"wanpair/accel/logs"
)

// newLogger writes to standard error, where systemd and containers expect it, without floods of lines that repeat.
// The level may be changed while it is in use.
func newLogger(c config.Log, level *slog.LevelVar) *slog.Logger {
	setLevel(level, c)
	options := &slog.HandlerOptions{Level: level}
	if c.Format == config.FormatJSON {
		return slog.New(logs.NewLimiter(slog.NewJSONHandler(os.Stderr, options)))
	}
	return slog.New(logs.NewLimiter(slog.NewTextHandler(os.Stderr, options)))
}

func setLevel(level *slog.LevelVar, c config.Log) {
	var l slog.Level
	if l.UnmarshalText([]byte(c.Level)) != nil {
		l = slog.LevelInfo // a validated configuration has no other text
	}
	level.Set(l)
}
