package tunnel

import (
	"fmt"
	"time"
)

// Acknowledge tells the proxy by which rules the node decides: acknowledgement is what the node has signed,
// of at most MaxHeaderBytes. A proxy of an older release ignores it. Concurrent calls wait for each other.
// After an error the caller must close the tunnel, because a part of the frame may have been sent.
func (u *Uplink) Acknowledge(acknowledgement []byte) error {
	if len(acknowledgement) > MaxHeaderBytes {
		const format = "tunnel: acknowledgement of %d bytes is larger than %d"
		return fmt.Errorf(format, len(acknowledgement), MaxHeaderBytes)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.control.SetWriteDeadline(time.Now().Add(pushTimeout)); err != nil {
		return err
	}
	return writeFrame(u.control, frameAcknowledgement, acknowledgement)
}

// Acknowledged has the newest acknowledgement of the node that was not taken. One that a newer one has
// replaced is lost, so a node that sends many fills no memory. Nobody has verified it.
func (a *Attached) Acknowledged() <-chan []byte { return a.acknowledged }

// takeAcknowledgement puts what the node says in the place of what was not taken.
func (a *Attached) takeAcknowledgement(body []byte) {
	select {
	case <-a.acknowledged:
	default:
	}
	a.acknowledged <- body // does not block: the channel is empty now, and only readControl sends
}
