package auth

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// With no proxy nobody can log in to make a token; with one, only people make them.
func TestOnlyTheFirstProxyIsInvitedWithoutAUser(t *testing.T) {
	w := newTestServer(t)
	for range 2 { // the first token may run out unused
		token, err := w.auth.InviteFirstProxy(t.Context(), time.Minute)
		if err != nil || token.Kind != identity.Proxy {
			t.Fatalf("got %v, %v, want a token of kind proxy", token.Kind, err)
		}
	}
	w.join(identity.Node, "web-1", nil)
	if _, err := w.auth.InviteFirstProxy(t.Context(), time.Minute); err != nil {
		t.Errorf("got %v beside a node, want a token: a node lets nobody log in", err)
	}
	w.join(identity.Proxy, "proxy-1", nil)
	if _, err := w.auth.InviteFirstProxy(t.Context(), time.Minute); !fault.Is(err, fault.Denied) ||
		fault.Remedy(err) == "" {
		t.Errorf("got %v beside a proxy, want it denied with the way to a token", err)
	}
}

func TestHealthReportsAStoppedServer(t *testing.T) {
	w := newTestServer(t)
	if err := w.auth.Health(t.Context()); err != nil {
		t.Errorf("got %v of an auth that serves, want none", err)
	}
	w.must(w.stop())
	if err := w.auth.Health(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v of one that has stopped, want it unavailable", err)
	}
}
