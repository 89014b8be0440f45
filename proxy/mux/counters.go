package mux

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// reportEvery is the least time between two lines about what came. Nothing is said while nobody was
	// refused.
	reportEvery = time.Minute
	// Lines about networks that are turned away: so many at once, then one each time.
	penaltyLogBurst = 10
	penaltyLogEvery = 10 * time.Second
)

// Counters count connections by what became of them.
type Counters struct {
	Accepted     atomic.Int64
	AcceptErrors atomic.Int64
	ProxyHeader  atomic.Int64 // came by a balancer that said whose they are
	WebSocket    atomic.Int64 // came in a WebSocket
	NoData       atomic.Int64 // closed before the first byte
	Penalised    atomic.Int64 // closed at once: their network is turned away
	Dropped      atomic.Int64 // lost their place to a newcomer
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
		slog.Int64(
			"accepted",
			c.Accepted.Load(),
		),
		slog.Int64("accept_errors", c.AcceptErrors.Load()),
		slog.Int64("presented", c.ProxyHeader.Load()),
		slog.Int64("inside", c.WebSocket.Load()),
		slog.Int64(
			"nobody",
			c.NoData.Load(),
		),
		slog.Int64("penalised", c.Penalised.Load()),
		slog.Int64("dropped", c.Dropped.Load()),
		slog.Int64(
			"timed_out",
			c.TimedOut.Load(),
		),
		slog.Int64("refused", c.Refused.Load()),
		slog.Int64("clear_http", c.ClearHTTP.Load()),
		slog.Int64(
			"ssh",
			c.SSH.Load(),
		),
		slog.Int64("dial", c.Dial.Load()),
		slog.Int64("tunnel", c.Tunnel.Load()),
		slog.Int64(
			"auth",
			c.Auth.Load(),
		),
		slog.Int64("web", c.Web.Load()),
		slog.Int64("panics", c.Panics.Load()),
	)
}

// refusals counts what an operator may want to hear of.
func (c *Counters) refusals() int64 {
	return c.AcceptErrors.Load() + c.Penalised.Load() + c.Dropped.Load() + c.TimedOut.Load() + c.Refused.Load() + c.Panics.Load()
}

// logCounters tells in one line, at most each reportEvery, what has come so far, until ctx ends.
func (m *Mux) logCounters(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for told := int64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := m.counters.refusals(); now != told {
			told = now
			m.cfg.Log.Info(
				"connections were refused",
				"so_far",
				&m.counters,
				"pending",
				m.pending.Count(),
				"anonymous",
				m.anonymous.Count(),
				"networks_turned_away",
				m.penalties.countBlocked(),
			)
		}
	}
}
