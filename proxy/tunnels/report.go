package tunnels

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
)

const (
	// minReportInterval is the least time between two reports. The first change is reported at once, and
	// many nodes that come back together are few reports.
	minReportInterval = 100 * time.Millisecond
	// Bounds of the pauses after reports that failed.
	minBackoff   = time.Millisecond
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 15 * time.Second
	// Bounds of the time until the next report that the auth service may ask for.
	minNextReport = time.Second
	maxNextReport = time.Minute
)

// Run reports the attached nodes to the auth service until ctx ends. It is called once.
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

// waitForChange waits until the set changes, next has passed or ctx ends, but at least minReportInterval.
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
