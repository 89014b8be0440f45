package tunnels

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
)

const (
	// minReportInterval is the least time between two reports: the first change is told at once, and a
	// thousand nodes coming back are few reports.
	minReportInterval = 100 * time.Millisecond
	// Back-off after a report that failed, with full jitter.
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 15 * time.Second
	// Bounds of what auth may ask for as the time between reports.
	minNextReport = time.Second
	maxNextReport = time.Minute
)

// Run reports to auth until ctx ends.
func (t *Tunnels) Run(ctx context.Context) error {
	wait := firstBackoff
	for ctx.Err() == nil {
		res, err := authrpc.Call(
			ctx,
			t.cfg.Auth,
			authrpc.ReportNodes,
			authrpc.ReportNodesRequest{Attached: t.attachedNodes()},
		)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			pause := rand.N(wait) + time.Millisecond
			t.cfg.Log.Warn("auth does not take the report of attached nodes", "err", err, "retry", pause)
			sleep(ctx, pause)
			wait = min(2*wait, maxBackoff)
			continue
		}
		wait = firstBackoff
		t.waitForChange(ctx, min(max(res.ReportAfter, minNextReport), maxNextReport))
	}
	return nil
}

// waitForChange waits until something changes or a report is due, but never less than gather.
func (t *Tunnels) waitForChange(ctx context.Context, again time.Duration) {
	sleep(ctx, minReportInterval)
	due := time.NewTimer(again)
	defer due.Stop()
	select {
	case <-ctx.Done():
	case <-due.C:
	case <-t.changed:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
