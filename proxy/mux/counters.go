package mux

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// reportEvery is the least time between two log lines with the counters.
	reportEvery = time.Minute
	// Limits for log lines about penalised networks: a burst, and then one line in each interval.
	penaltyLogBurst = 10
	penaltyLogEvery = 10 * time.Second
)

// Counters count connections since the start, by what became of them. A connection may be in several.
type Counters struct {
	Accepted     atomic.Int64 // by the listener
	AcceptErrors atomic.Int64 // failed accepts
	ProxyHeader  atomic.Int64 // with a client's address in a PROXY header
	WebSocket    atomic.Int64 // streams inside WebSockets
	NoData       atomic.Int64 // closed by the peer before the first byte
	Penalised    atomic.Int64 // closed at once, because their network is penalised
	Dropped      atomic.Int64 // closed by random early drop
	TimedOut     atomic.Int64 // before the peer was known
	Refused      atomic.Int64 // unknown protocol, bad ClientHello, invalid certificate
	ClearHTTP    atomic.Int64 // HTTP without TLS
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
		slog.Int64("accepted", c.Accepted.Load()),
		slog.Int64("accept_errors", c.AcceptErrors.Load()),
		slog.Int64("proxy_header", c.ProxyHeader.Load()),
		slog.Int64("websocket", c.WebSocket.Load()),
		slog.Int64("no_data", c.NoData.Load()),
		slog.Int64("penalised", c.Penalised.Load()),
		slog.Int64("dropped", c.Dropped.Load()),
		slog.Int64("timed_out", c.TimedOut.Load()),
		slog.Int64("refused", c.Refused.Load()),
		slog.Int64("clear_http", c.ClearHTTP.Load()),
		slog.Int64("ssh", c.SSH.Load()),
		slog.Int64("dial", c.Dial.Load()),
		slog.Int64("tunnel", c.Tunnel.Load()),
		slog.Int64("auth", c.Auth.Load()),
		slog.Int64("web", c.Web.Load()),
		slog.Int64("panics", c.Panics.Load()),
	)
}

// refusals is how many connections were refused for any reason that an operator may want to know of.
func (c *Counters) refusals() int64 {
	return c.AcceptErrors.Load() + c.Penalised.Load() + c.Dropped.Load() +
		c.TimedOut.Load() + c.Refused.Load() + c.Panics.Load()
}

// logCounters writes the counters in one line, at most once every reportEvery and only after new refusals,
// until ctx ends.
func (m *Mux) logCounters(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for logged := int64(0); ; { // logged is the number of refusals in the last line
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := m.counters.refusals(); now != logged {
			logged = now
			m.cfg.Log.Info("connections were refused",
				"so_far", &m.counters,
				"pending", m.pending.Count(),
				"anonymous", m.anonymous.Count(),
				"penalised_networks", m.penalties.countBlocked())
		}
	}
}
