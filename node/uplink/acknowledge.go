package uplink

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/tunnel"
)

// acknowledgePause is the least time between two acknowledgements over one tunnel. Of changes that come
// faster, the newest is acknowledged.
const acknowledgePause = 200 * time.Millisecond

// acknowledge sends Config.Acknowledgement over the tunnel at once, and whenever it changes, until the tunnel
// or ctx ends.
func (t *Tunnels) acknowledge(ctx context.Context, up *tunnel.Uplink) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-up.Done():
			return
		case <-ctx.Done():
			return
		}
		acknowledgement, changed, err := t.cfg.Acknowledgement()
		if err != nil {
			t.cfg.Log.Warn("the rules in force cannot be acknowledged", "err", err)
		} else if err := up.Acknowledge(acknowledgement); err != nil {
			return // the tunnel has ended
		}
		pause.Reset(acknowledgePause)
		select {
		case <-changed:
		case <-up.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}
