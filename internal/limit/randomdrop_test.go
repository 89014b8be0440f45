package limit_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/threshold-access/threshold/internal/limit"
)

// client is an entry of a test.
type client struct {
	release func()
	drops   int // how often it was dropped
}

func admit(drop *limit.RandomDrop, addr string) *client {
	c := &client{}
	c.release = drop.Admit(limit.Network(addr), func() { c.drops++ })
	return c
}

// dropped counts the drops of all the clients.
func dropped(all []*client) (n int) {
	for _, c := range all {
		n += c.drops
	}
	return n
}

func TestNothingIsDroppedBelowStart(t *testing.T) {
	t.Parallel()
	drop := limit.NewRandomDrop(
		limit.DropLimit{Start: 100, Rate: 50, Full: 200},
		limit.DropLimit{Start: 10, Rate: 50, Full: 20},
	)
	var all []*client
	for i := range 100 {
		all = append(all, admit(drop, fmt.Sprintf("192.0.2.%d", i/10)))
	}
	if n := dropped(all); n != 0 || drop.Count() != 100 {
		t.Errorf("got %d dropped and %d left, want none of 100 dropped", n, drop.Count())
	}
}

// For one network nothing is dropped up to Start, some is before Full, and never more than Full entries
// remain.
func TestDropsBeginEarlyAndNeverPassFull(t *testing.T) {
	t.Parallel()
	drop := limit.NewRandomDrop(
		limit.DropLimit{Start: 1000, Rate: 30, Full: 1000},
		limit.DropLimit{Start: 10, Rate: 30, Full: 50},
	)
	var all []*client
	for i := range 50 {
		all = append(all, admit(drop, "192.0.2.1"))
		if i < 10 && dropped(all) != 0 {
			t.Fatalf("got a drop at entry %d, want none up to 10", i+1)
		}
	}
	if n := dropped(all); n == 0 || n > 40 {
		t.Errorf("got %d of 50 dropped, want some before the network is full", n)
	}
	for range 1000 {
		all = append(all, admit(drop, "192.0.2.1"))
	}
	if n := drop.Count(); n < 10 || n > 50 || n+dropped(all) != len(all) {
		t.Errorf(
			"got %d left and %d dropped of %d, want at most 50 left and the others dropped",
			n, dropped(all), len(all),
		)
	}
}

// A flood from one network drops entries of that network and no others. The newest entry is never dropped.
func TestAFloodDropsItsOwnNetworkFirst(t *testing.T) {
	t.Parallel()
	drop := limit.NewRandomDrop(
		limit.DropLimit{Start: 200, Rate: 30, Full: 400},
		limit.DropLimit{Start: 20, Rate: 30, Full: 40},
	)
	others := []*client{admit(drop, "198.51.100.7"), admit(drop, "2001:db8:2::1")}
	for range 5000 {
		if c := admit(drop, "[2001:db8:1::1]:7"); c.drops != 0 {
			t.Fatal("got the new entry dropped, want an older one")
		}
	}
	if n := dropped(others); n != 0 {
		t.Errorf("got %d of other networks dropped, want none", n)
	}
}

// The limit for all holds for many networks together. Entries without a network have no other limit.
func TestManyNetworksShareTheTotalLimit(t *testing.T) {
	t.Parallel()
	drop := limit.NewRandomDrop(
		limit.DropLimit{Start: 50, Rate: 30, Full: 100},
		limit.DropLimit{Start: 5, Rate: 30, Full: 10},
	)
	for i := range 1000 {
		admit(drop, fmt.Sprintf("192.0.%d.%d", i/250, i%250))
		admit(drop, "a pipe")
	}
	if n := drop.Count(); n > 100 {
		t.Errorf("got %d left, want at most 100", n)
	}
}

// In whatever order entries are admitted, released and dropped, the count is right, and an entry is dropped
// at most once and only before its release.
func TestAdmitAndReleaseKeepTheCount(t *testing.T) {
	t.Parallel()
	drop := limit.NewRandomDrop(
		limit.DropLimit{Start: 20, Rate: 30, Full: 40},
		limit.DropLimit{Start: 3, Rate: 30, Full: 8},
	)
	var held []*client
	left := func() (n int) {
		for _, c := range held {
			if c.drops == 0 {
				n++
			}
		}
		return n
	}
	for range 5000 {
		if i := rand.IntN(len(held) + 1); i < len(held) && rand.IntN(2) == 0 {
			before := held[i].drops
			held[i].release()
			held[i].release()
			if held[i].drops != before {
				t.Fatal("got an entry dropped by its release")
			}
			held = append(held[:i], held[i+1:]...)
		} else {
			held = append(held, admit(drop, fmt.Sprintf("192.0.2.%d", rand.IntN(8))))
		}
		if got := drop.Count(); got != left() {
			t.Fatalf("got %d entries, want %d", got, left())
		}
	}
	for _, c := range held {
		if c.release(); c.drops > 1 {
			t.Errorf("got an entry dropped %d times", c.drops)
		}
	}
	if got := drop.Count(); got != 0 {
		t.Errorf("got %d entries at the end, want none", got)
	}
}
