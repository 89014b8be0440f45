package uplink

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/tunnel"
)

// These bound how often a proxy can make the node verify rules, which costs processor time and, if they do
// not verify, a line in the log. rulesBurst pushes within rulesPeriod are taken at once. After that only the
// newest of each rulesPause counts.
const (
	rulesBurst  = 20
	rulesPeriod = 10 * time.Second
	rulesPause  = 200 * time.Millisecond
)

// forwardRules passes on the rules that a proxy pushes, at the bounded rate, until the tunnel or ctx ends.
func (t *Tunnels) forwardRules(ctx context.Context, up *tunnel.Uplink) {
	pushes := up.Rules() // nil during a pause
	taken, since := 0, time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
			pushes = up.Rules()
		case push := <-pushes:
			t.cfg.Rules(push)
			if now := time.Now(); now.Sub(since) > rulesPeriod {
				taken, since = 0, now
			}
			if taken++; taken >= rulesBurst {
				pushes = nil
				pause.Reset(rulesPause)
			}
		case <-up.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}
