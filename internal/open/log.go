package open

import (
	"log/slog"
	"sync/atomic"

	"github.com/threshold-access/threshold/internal/fault"
)

// maxLines is how many denials of one decision are logged. When the rules are too old, everything that is
// open is denied at once.
const maxLines = 100

// Log writes denials into a log, and counts them.
type Log struct {
	Log *slog.Logger

	denied atomic.Int64
}

// Denied logs each denial with who has what open, and how much of it. It can be Config.Denied.
func (l *Log) Denied(denials []Denial) {
	for i, d := range denials {
		total := l.denied.Add(int64(len(d.Holders)))
		if i == maxLines {
			l.Log.Warn("more is open that is no longer allowed", "uses", len(denials)-maxLines)
		}
		if i >= maxLines {
			continue
		}
		l.Log.Warn("open, and no longer allowed", "user", d.User.Name, "connector", d.User.Connector,
			"login_id", d.User.LoginID, "serial", d.User.Serial, "login", d.Use.Login, "node", d.Use.Node,
			"action", d.Use.Action, "from", d.Use.From, "proxy", d.Use.Proxy, "open", len(d.Holders), "denied_total", total,
			"reason", fault.Message(d.Reason))
	}
}

// Count returns how many entries were denied so far.
func (l *Log) Count() int64 { return l.denied.Load() }
