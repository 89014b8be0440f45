// Package limitedlog answers: how is a log protected against lines that anybody can cause?
//
// A line that is suppressed is counted, and the next line that is written says how many were.
package limitedlog

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// SuppressedKey is the log key for the number of lines that were suppressed before this one.
const SuppressedKey = "suppressed_before"

// Logger writes to a log at a limited rate. Its methods may be called by several goroutines at once.
type Logger struct {
	log        *slog.Logger
	limit      *rate.Limiter
	now        func() time.Time
	since      atomic.Uint64 // suppressed since the last line
	suppressed atomic.Uint64 // suppressed in all
}

// New makes a logger that writes to log: at first up to burst lines at once, and in the long run one line
// every interval. now is the clock; nil means time.Now.
func New(log *slog.Logger, interval time.Duration, burst int, now func() time.Time) *Logger {
	if now == nil {
		now = time.Now
	}
	return &Logger{log: log, limit: rate.NewLimiter(rate.Every(interval), burst), now: now}
}

// Log writes a line and returns true. If the rate is exceeded it writes nothing, counts the line as
// suppressed and returns false.
func (l *Logger) Log(level slog.Level, msg string, args ...any) bool {
	if !l.limit.AllowN(l.now(), 1) {
		l.since.Add(1)
		l.suppressed.Add(1)
		return false
	}
	if n := l.since.Swap(0); n > 0 {
		args = append(args[:len(args):len(args)], SuppressedKey, n) // never into the caller's array
	}
	l.log.Log(context.Background(), level, msg, args...)
	return true
}

// Suppressed counts the lines that were not written since New.
func (l *Logger) Suppressed() uint64 { return l.suppressed.Load() }
