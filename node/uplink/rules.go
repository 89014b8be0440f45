package uplink

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/tunnel"
)

// These bound how often a proxy can make the node verify rules, which costs processor time and, if the rules
// do not verify, a line in the log. Up to rulesBurst pushes within rulesPeriod are passed on at once. After
// that, one push is passed on in each rulesPause, with all that came meanwhile.
const (
	rulesBurst  = 20
	rulesPeriod = 10 * time.Second
	rulesPause  = 200 * time.Millisecond
)

// forwardRules passes the rules that a proxy pushes to Config.Rules, at most at the rate that the constants
// above allow, until the tunnel or ctx ends.
func (t *Tunnels) forwardRules(ctx context.Context, up *tunnel.Uplink) {
	pushes := up.Rules()                   // nil during a pause, so that nothing is received
	inPeriod, periodStart := 0, time.Now() // pushes that were passed on since periodStart
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
			pushes = up.Rules()
		case push := <-pushes:
			if lacking := t.cfg.Rules(push); len(lacking) > 0 {
				if err := up.RepeatRules(lacking); err != nil {
					return // the tunnel has ended
				}
			}
			if now := time.Now(); now.Sub(periodStart) > rulesPeriod {
				inPeriod, periodStart = 0, now
			}
			if inPeriod++; inPeriod >= rulesBurst {
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
