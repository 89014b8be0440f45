package places_test

import (
	"testing"

	"github.com/threshold-access/threshold/internal/places"
)

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "192.0.2.7:22": "192.0.2.7/32", "[::ffff:192.0.2.7]:22": "192.0.2.7/32",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "[2001:db8:1:2:9::9%eth0]:443": "2001:db8:1:2::/64",
		"": "invalid Prefix", "@": "invalid Prefix",
	} {
		if got := places.Network(in).String(); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestOneClientLeavesRoomForOthers(t *testing.T) {
	p := places.New(3, 2)
	take := func(addr string, want bool) func() {
		t.Helper()
		leave, ok := p.Take(addr)
		if ok != want {
			t.Fatalf("%s: got a place %v, want %v", addr, ok, want)
		}
		return leave
	}
	first := take("[2001:db8::1]:1", true)
	take("[2001:db8::2]:1", true)
	take("[2001:db8::3]:1", false) // the same network
	other := take("192.0.2.1:1", true)
	take("192.0.2.2:1", false) // full
	other()
	other() // once more changes nothing
	take("192.0.2.2:1", true)
	take("192.0.2.3:1", false)
	first()
	take("[2001:db8::3]:1", true)
}
