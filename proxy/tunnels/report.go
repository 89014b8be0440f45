package tunnels

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
)

const (
	// minReportInterval is the least time between two reports. A change after a quiet time is reported at
	// once; changes in quick succession, as when many nodes come back together, share a report.
	minReportInterval = 100 * time.Millisecond
	// Bounds of the pauses after reports that failed.
	minBackoff   = time.Millisecond
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 15 * time.Second
	// Bounds of the time until the next report that the auth service may ask for.
	minNextReport = time.Second
	maxNextReport = time.Minute
)

// Run reports the attached nodes to the auth service until ctx ends, and then returns nil. Each report is the
// complete list. The auth service says in its reply when it expects the next one at the latest; a change is
// reported earlier. After an error Run tries again with growing pauses. It is called once.
func (t *Tunnels) Run(ctx context.Context) error {
	pauses := backoff.Backoff{Min: minBackoff, First: firstBackoff, Max: maxBackoff}
	for ctx.Err() == nil {
		report := authrpc.ReportNodesRequest{Attached: t.attachedNodes()}
		res, err := authrpc.Call(ctx, t.cfg.Auth, authrpc.ReportNodes, report)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			pause := pauses.Next()
			t.cfg.Log.Warn("cannot report the attached nodes to the auth service",
				"err", err, "retry_in", pause)
			backoff.Sleep(ctx, pause)
			continue
		}
		pauses.Reset()
		t.waitForChange(ctx, min(max(res.ReportAfter, minNextReport), maxNextReport))
	}
	return nil
}

// waitForChange waits until the set changes, the duration next has passed or ctx ends. Unless ctx ends, it
// waits for minReportInterval at least.
func (t *Tunnels) waitForChange(ctx context.Context, next time.Duration) {
	backoff.Sleep(ctx, minReportInterval)
	due := time.NewTimer(next)
	defer due.Stop()
	select {
	case <-ctx.Done():
	case <-due.C:
	case <-t.changed:
	}
}
