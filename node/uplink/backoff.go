package uplink

import (
	"time"

	"github.com/threshold-access/threshold/internal/backoff"
)

const (
	// minPause and maxPause bound the pause after a dial that has failed. The pause is random, between
	// minPause and a ceiling that doubles with each failure up to maxPause.
	minPause, maxPause = time.Second, time.Minute
	// outagePause bounds the pauses, in place of maxPause, for the time of outageWindow after a tunnel has
	// ended: its proxy was reachable and is expected to be reachable again soon.
	outagePause  = 5 * time.Second
	outageWindow = 2 * time.Minute
	// sparePause bounds the pause after every address has led to a proxy to which the node has a tunnel.
	sparePause = 2 * time.Minute
)

// outcome is how one attempt to keep a tunnel ended.
type outcome int

const (
	failed outcome = iota // no tunnel was connected
	ended                 // a tunnel was connected, and has ended
	spare                 // no tunnel is needed: the node has one to the proxy that answered
)

// redial decides how long to wait before a tunnel is dialled again. Pauses are random, so that the many nodes
// of a cluster do not all dial a proxy at once when it restarts. It belongs to one goroutine.
type redial struct {
	draw     func(time.Duration) time.Duration // returns a random duration in [0, its argument)
	now      func() time.Time
	addrs    int             // how many addresses the goroutine dials in turn
	failures backoff.Backoff // the pauses after failures in a row
	lastLost time.Time       // when a tunnel last ended; zero if none has
	spares   int             // how many outcomes were spare so far
}

// newRedial returns the pauses of one tunnel before its first dial.
func newRedial(draw func(time.Duration) time.Duration, now func() time.Time, addrs int) *redial {
	failures := backoff.Backoff{Min: minPause, First: 2 * minPause, Max: maxPause, Draw: draw}
	return &redial{draw: draw, now: now, addrs: addrs, failures: failures}
}

// pause records how the last attempt ended, and returns how long to wait before the next one. Each call
// counts as one attempt.
func (r *redial) pause(last outcome) time.Duration {
	inOutage := r.now().Sub(r.lastLost) < outageWindow
	switch {
	case last == spare:
		r.failures.Reset()
		if r.spares++; r.spares%r.addrs != 0 { // the next address may lead to another proxy
			return r.draw(outagePause)
		}
		return sparePause/2 + r.draw(sparePause/2)
	case last == ended:
		r.failures.Reset()
		r.lastLost = r.now()
		return r.draw(outagePause)
	case inOutage: // failed
		return minPause + r.draw(outagePause-minPause)
	}
	return r.failures.Next()
}
