package raftstore

import (
	"cmp"
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// libraryLog passes the messages of raft and raft-wal on to log. At every start they warn of what is normal
// for a single voter. So only errors keep their level: a warning becomes info, all else debug.
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
