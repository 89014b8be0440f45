package limit_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/threshold-access/threshold/internal/limit"
)

// client notes whether it lost its place.
type client struct {
	leave func()
	lost  int
}

func admit(r *limit.RandomDrop, addr string) *client {
	v := &client{}
	v.leave = r.Admit(limit.Network(addr), func() { v.lost++ })
	return v
}

func lost(all []*client) (n int) {
	for _, v := range all {
		n += v.lost
	}
	return n
}

func TestNothingIsDroppedBelowStart(t *testing.T) {
	r := limit.NewRandomDrop(
		limit.DropLimit{Start: 100, Rate: 50, Full: 200},
		limit.DropLimit{Start: 10, Rate: 50, Full: 20},
	)
	var all []*client
	for i := range 100 {
		all = append(all, admit(r, fmt.Sprintf("192.0.2.%d", i/10)))
	}
	if n := lost(all); n != 0 || r.Count() != 100 {
		t.Errorf("got %d sent away, %d inside, want nobody sent away of 100", n, r.Count())
	}
}

func TestDropsBeginEarlyAndNeverPassFull(t *testing.T) {
	r := limit.NewRandomDrop(
		limit.DropLimit{Start: 1000, Rate: 30, Full: 1000},
		limit.DropLimit{Start: 10, Rate: 30, Full: 50},
	)
	var all []*client
	for i := range 50 {
		all = append(all, admit(r, "192.0.2.1"))
		if i < 10 && lost(all) != 0 {
			t.Fatalf("got a drop at guest %d, want none up to 10", i+1)
		}
	}
	if n := lost(all); n == 0 || n > 40 {
		t.Errorf("got %d of 50 sent away, want some before the network is full", n)
	}
	for range 1000 {
		all = append(all, admit(r, "192.0.2.1"))
	}
	if in := r.Count(); in < 10 || in > 50 || in+lost(all) != len(all) {
		t.Errorf(
			"got %d inside and %d sent away of %d, want 50 inside at most, and each either",
			in,
			lost(all),
			len(all),
		)
	}
}

// A flood of one network costs its own guests their places, not those of others; the last one in is always
// inside.
func TestAFloodDropsItsOwnNetworkFirst(t *testing.T) {
	r := limit.NewRandomDrop(
		limit.DropLimit{Start: 200, Rate: 30, Full: 400},
		limit.DropLimit{Start: 20, Rate: 30, Full: 40},
	)
	calm := []*client{admit(r, "198.51.100.7"), admit(r, "2001:db8:2::1")}
	for range 5000 {
		if v := admit(r, "[2001:db8:1::1]:7"); v.lost != 0 {
			t.Fatal("got a newcomer sent away, want somebody who was there")
		}
	}
	if n := lost(calm); n != 0 {
		t.Errorf("got %d of other networks sent away, want none", n)
	}
}

// Many networks together come under the limit of all. Guests without a network have no other.
func TestManyNetworksShareTheTotalLimit(t *testing.T) {
	r := limit.NewRandomDrop(
		limit.DropLimit{Start: 50, Rate: 30, Full: 100},
		limit.DropLimit{Start: 5, Rate: 30, Full: 10},
	)
	for i := range 1000 {
		admit(r, fmt.Sprintf("192.0.%d.%d", i/250, i%250))
		admit(r, "a pipe")
	}
	if in := r.Count(); in > 100 {
		t.Errorf("got %d inside, want 100 at most", in)
	}
}

// Whatever the order of coming, going and losing, the room counts right, and a place is lost once and only
// while it is held.
func TestAdmitAndReleaseKeepTheCount(t *testing.T) {
	r := limit.NewRandomDrop(
		limit.DropLimit{Start: 20, Rate: 30, Full: 40},
		limit.DropLimit{Start: 3, Rate: 30, Full: 8},
	)
	var held []*client
	inside := func() (n int) {
		for _, v := range held {
			if v.lost == 0 {
				n++
			}
		}
		return n
	}
	for range 5000 {
		if i := rand.IntN(len(held) + 1); i < len(held) && rand.IntN(2) == 0 {
			before := held[i].lost
			held[i].leave()
			held[i].leave()
			if held[i].lost != before {
				t.Fatal("got a place lost by leaving")
			}
			held = append(held[:i], held[i+1:]...)
		} else {
			held = append(held, admit(r, fmt.Sprintf("192.0.2.%d", rand.IntN(8))))
		}
		if got := r.Count(); got != inside() {
			t.Fatalf("got %d guests, want %d", got, inside())
		}
	}
	for _, v := range held {
		if v.leave(); v.lost > 1 {
			t.Errorf("got a place lost %d times", v.lost)
		}
	}
	if got := r.Count(); got != 0 {
		t.Errorf("got %d guests at the end, want none", got)
	}
}
