package limit_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/limit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNetwork(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "192.0.2.7:22": "192.0.2.7/32", "[::ffff:192.0.2.7]:22": "192.0.2.7/32",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "[2001:db8:1:2:9::9%eth0]:443": "2001:db8:1:2::/64",
		"": "invalid Prefix", "@": "invalid Prefix",
	} {
		if got := limit.Network(in).String(); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

// A client is refused at its own bound, and everybody at the bound for all. IPv6 addresses of one /64 are one
// client.
func TestOneClientCannotTakeTheWholeQuota(t *testing.T) {
	t.Parallel()
	quota := limit.NewQuota(3, 2)
	acquire := func(addr string, want bool) func() {
		t.Helper()
		release, ok := quota.TryAcquire(addr)
		if ok != want {
			t.Fatalf("%s: got acquired %v, want %v", addr, ok, want)
		}
		return release
	}
	first := acquire("[2001:db8::1]:1", true)
	acquire("[2001:db8::2]:1", true)
	acquire("[2001:db8::3]:1", false) // the same network
	other := acquire("192.0.2.1:1", true)
	acquire("192.0.2.2:1", false) // full
	other()
	other() // a second release changes nothing
	acquire("192.0.2.2:1", true)
	acquire("192.0.2.3:1", false)
	first()
	acquire("[2001:db8::3]:1", true)
}

// Calls wait in order. One that waits for its client's bound does not hold up another client's, and one whose
// context ends gives up its place.
func TestOneClientsWaitersDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		quota := limit.NewQuota(3, 2)
		var mu sync.Mutex
		var in []int // guarded by mu
		note := func(n int) { mu.Lock(); defer mu.Unlock(); in = append(in, n) }
		wait := func(n int, addr string, ctx context.Context, release chan struct{}) {
			go func() {
				done, ok := quota.Acquire(ctx, addr)
				if !ok {
					note(-n)
					return
				}
				note(n)
				<-release
				done()
			}()
			synctest.Wait() // one after the other
		}
		expect := func(want ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(in, want) {
				t.Errorf("got admitted in the order %v, want %v", in, want)
			}
			in = nil
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first, others := make(chan struct{}), make(chan struct{})
		wait(1, "192.0.2.1:1", t.Context(), first)
		wait(2, "192.0.2.1:2", t.Context(), others)
		wait(3, "192.0.2.1:3", soon, others)
		wait(4, "192.0.2.1:4", t.Context(), others)
		wait(5, "192.0.2.1:5", t.Context(), others)
		wait(6, "192.0.2.2:1", t.Context(), others)
		wait(7, "192.0.2.3:1", t.Context(), others)
		expect(1, 2, 6)
		<-soon.Done()
		expect(-3)
		first <- struct{}{}
		expect(4)
		close(others)
		synctest.Wait()
		mu.Lock()
		slices.Sort(in) // 5 and 7 were admitted at the same time
		mu.Unlock()
		expect(5, 7)
		if release, ok := quota.TryAcquire("192.0.2.1:9"); !ok {
			t.Error("got none free after all were released")
		} else {
			release()
		}
	})
}
