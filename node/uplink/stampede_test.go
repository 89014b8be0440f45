package uplink

import (
	"math/rand/v2"
	"testing"
	"time"
)

const (
	agents = 1000
	bucket = 100 * time.Millisecond
	// Full jitter over five seconds brings 20 agents in each bucket on average, and nearly as many again who
	// try while the proxy is away.
	maxBucket = 80
)

// A thousand agents lose one proxy at one moment. By the pauses they make they come back neither at once nor
// late, after a restart and after a long outage. That the rest of an agent keeps up with this is shown in
// integration: TestAThousandAgentsDoNotStampede.
func TestAThousandAgentsReconnectSpreadOut(t *testing.T) {
	for _, tt := range []struct {
		name   string
		outage time.Duration
		back   time.Duration // all are attached again so long after it
	}{
		{"a restart", 0, outagePause},
		{"three seconds", 3 * time.Second, outagePause},
		{"a minute", time.Minute, outagePause},
		{"an hour", time.Hour, maxPause},
	} {
		lost := time.Unix(1_000_000, 0)
		random := rand.New(rand.NewPCG(1, uint64(tt.outage)))
		by := map[time.Duration]int{}
		last := time.Duration(0)
		for range agents {
			clock := lost
			p := backoff{
				draw:  func(n time.Duration) time.Duration { return time.Duration(random.Int64N(int64(n))) },
				now:   func() time.Time { return clock },
				addrs: 1,
			}
			pause := p.pause(true, false)
			for {
				clock = clock.Add(pause)
				at := clock.Sub(lost)
				by[at/bucket]++
				if at >= tt.outage {
					last = max(last, at-tt.outage)
					break
				}
				pause = p.pause(false, false)
			}
		}
		most := 0
		for _, n := range by {
			most = max(most, n)
		}
		t.Logf(
			"%s: at most %d dials within %s, all back %s after it",
			tt.name,
			most,
			bucket,
			last.Round(bucket),
		)
		if most > maxBucket {
			t.Errorf("%s: got %d dials within %s, want at most %d", tt.name, most, bucket, maxBucket)
		}
		if last > tt.back {
			t.Errorf("%s: got the last one back after %s, want within %s", tt.name, last, tt.back)
		}
	}
}
