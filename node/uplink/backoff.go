package uplink

import (
	"time"

	"github.com/threshold-access/threshold/internal/backoff"
)

const (
	// minPause and maxPause bound the pauses between dials that fail. Each is drawn from the whole range up
	// to a ceiling, which doubles with each failure.
	minPause, maxPause = time.Second, time.Minute
	// outagePause bounds the pauses for outageWindow after a tunnel has ended: the proxy was there and is
	// expected back.
	outagePause  = 5 * time.Second
	outageWindow = 2 * time.Minute
	// sparePause bounds the pause of a dial that found only proxies that have a tunnel already.
	sparePause = 2 * time.Minute
)

// outcome is how one dial of a tunnel ended.
type outcome int

const (
	failed outcome = iota // there was no tunnel
	ended                 // there was a tunnel; it has ended
	spare                 // the proxy that answered has a tunnel already
)

// redial says how long to wait before a tunnel is dialled again. It belongs to one goroutine.
type redial struct {
	draw     func(time.Duration) time.Duration // uniform in [0, n)
	now      func() time.Time
	addrs    int // how many addresses there are
	failures backoff.Backoff
	lastLost time.Time // when the tunnel last ended
	spares   int       // dials in a row that found a spare
}

func newRedial(draw func(time.Duration) time.Duration, now func() time.Time, addrs int) *redial {
	failures := backoff.Backoff{Min: minPause, First: 2 * minPause, Max: maxPause, Draw: draw}
	return &redial{draw: draw, now: now, addrs: addrs, failures: failures}
}

// pause is how long to wait after a dial that ended like that.
func (r *redial) pause(o outcome) time.Duration {
	switch {
	case o == spare:
		r.failures.Reset()
		if r.spares++; r.spares%r.addrs != 0 { // the next address may lead to another proxy
			return r.draw(outagePause)
		}
		return sparePause/2 + r.draw(sparePause/2)
	case o == ended:
		r.failures.Reset()
		r.lastLost = r.now()
		return r.draw(outagePause)
	case r.now().Sub(r.lastLost) < outageWindow:
		return minPause + r.draw(outagePause-minPause)
	}
	return r.failures.Next()
}
