package mux

import (
	"log/slog"
	"sync/atomic"
)

// Counters count connections by what became of them.
type Counters struct {
	Accepted     atomic.Int64
	AcceptErrors atomic.Int64
	Crowded      atomic.Int64 // closed at once: too many pending or anonymous ones
	TimedOut     atomic.Int64 // before the peer was known
	Refused      atomic.Int64 // garbage, a bad hello, a certificate that is not good
	ClearHTTP    atomic.Int64
	SSH          atomic.Int64
	Dial         atomic.Int64
	Tunnel       atomic.Int64
	Auth         atomic.Int64
	Web          atomic.Int64
	Panics       atomic.Int64
}

// LogValue makes the counters one group in a log line.
func (c *Counters) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int64("accepted", c.Accepted.Load()), slog.Int64("accept_errors", c.AcceptErrors.Load()), slog.Int64("crowded", c.Crowded.Load()),
		slog.Int64("timed_out", c.TimedOut.Load()), slog.Int64("refused", c.Refused.Load()), slog.Int64("clear_http", c.ClearHTTP.Load()),
		slog.Int64("ssh", c.SSH.Load()), slog.Int64("dial", c.Dial.Load()), slog.Int64("tunnel", c.Tunnel.Load()),
		slog.Int64("auth", c.Auth.Load()), slog.Int64("web", c.Web.Load()), slog.Int64("panics", c.Panics.Load()),
	)
}
