package raftstore

import (
	"cmp"
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// libraryLog hands what raft and raft-wal say to log. They warn of what is normal for a single voter at every
// start, so all but their errors goes down a level.
func libraryLog(log *slog.Logger) hclog.Logger {
	out := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Off, Output: io.Discard})
	out.RegisterSink(slogSink{log})
	return out
}

type slogSink struct{ log *slog.Logger }

func (s slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch level {
	case hclog.Warn:
		to = slog.LevelInfo
	case hclog.Error:
		to = slog.LevelError
	}
	s.log.Log(context.Background(), to, msg, append([]any{"library", cmp.Or(name, "raft")}, args...)...)
}
