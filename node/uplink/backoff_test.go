package uplink

import (
	"math/rand/v2"
	"testing"
	"time"
)

// It takes the longest and the shortest pauses that the random source allows, for each outcome of a dial.
func TestPausesAreSpreadAndBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	clock := func() time.Time { return now }
	longest := newRedial(func(n time.Duration) time.Duration { return n - 1 }, clock, 1)
	for i, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60, 60} {
		if got := longest.pause(failed); got != want*time.Second {
			t.Errorf("failure %d: got a pause up to %s, want %s", i+1, got, want*time.Second)
		}
	}
	if got := longest.pause(ended); got >= outagePause {
		t.Errorf("after the end of a tunnel: got %s, want less than %s", got, outagePause)
	}
	for range 5 {
		if got := longest.pause(failed); got > outagePause {
			t.Errorf("a failure soon after the end of a tunnel: got %s, want at most %s", got, outagePause)
		}
	}
	now = now.Add(outageWindow)
	if got := longest.pause(failed); got != 2*time.Second {
		t.Errorf("a failure long after the end of a tunnel: got %s, want the first ceiling again", got)
	}
	if got := longest.pause(spare); got < sparePause/2 || got > sparePause {
		t.Errorf("spare: got %s, want up to %s", got, sparePause)
	}
	shortest := newRedial(func(time.Duration) time.Duration { return 0 }, clock, 2)
	for range 9 {
		if got := shortest.pause(failed); got < minPause {
			t.Errorf("got %s, want at least %s, so that no proxy is flooded with dials", got, minPause)
		}
	}
	if got := shortest.pause(spare); got != 0 {
		t.Errorf("spare with another address to try: got %s, want it tried at once", got)
	}
}

// A thousand agents lose one proxy at the same moment. Their pauses bring them back neither all at once nor
// late, after a restart of the proxy and after a long outage. That the rest of an agent keeps up with this is
// shown in integration by TestAThousandAgentsDoNotReconnectAtOnce.
func TestAThousandAgentsReconnectSpreadOut(t *testing.T) {
	t.Parallel()
	const (
		agents = 1000
		bucket = 100 * time.Millisecond
		// Full jitter over five seconds puts 20 agents in each bucket on average, and nearly as many again
		// that dial while the proxy is away.
		maxBucket = 80
	)
	for _, tt := range []struct {
		name   string
		outage time.Duration
		limit  time.Duration // all agents are back so long after the outage
	}{
		{"a restart", 0, outagePause},
		{"three seconds", 3 * time.Second, outagePause},
		{"a minute", time.Minute, outagePause},
		{"an hour", time.Hour, maxPause},
	} {
		lost := time.Unix(1_000_000, 0)
		random := rand.New(rand.NewPCG(1, uint64(tt.outage)))
		draw := func(n time.Duration) time.Duration { return time.Duration(random.Int64N(int64(n))) }
		dials := map[time.Duration]int{} // by bucket
		last := time.Duration(0)
		for range agents {
			now := lost
			redial := newRedial(draw, func() time.Time { return now }, 1)
			pause := redial.pause(ended)
			for {
				now = now.Add(pause)
				at := now.Sub(lost)
				dials[at/bucket]++
				if at >= tt.outage {
					last = max(last, at-tt.outage)
					break
				}
				pause = redial.pause(failed)
			}
		}
		most := 0
		for _, n := range dials {
			most = max(most, n)
		}
		t.Logf("%s: at most %d dials in %s, all back after %s", tt.name, most, bucket, last.Round(bucket))
		if most > maxBucket {
			t.Errorf("%s: got %d dials in %s, want at most %d", tt.name, most, bucket, maxBucket)
		}
		if last > tt.limit {
			t.Errorf("%s: got the last agent back after %s, want at most %s", tt.name, last, tt.limit)
		}
	}
}
