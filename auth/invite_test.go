package auth

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Without a proxy nobody can log in to create a token. With one, only users create them.
func TestOnlyTheFirstProxyIsInvitedWithoutAUser(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	for range 2 { // the first token may expire unused
		token, err := s.auth.InviteFirstProxy(t.Context(), nil, time.Minute)
		if err != nil || token.Kind != identity.Proxy {
			t.Fatalf("got %v, %v, want a token of kind proxy", token.Kind, err)
		}
	}
	s.join(identity.Node, "web-1", nil)
	if _, err := s.auth.InviteFirstProxy(t.Context(), nil, time.Minute); err != nil {
		t.Errorf("beside a node: got %v, want a token, because nobody can log in yet", err)
	}
	s.join(identity.Proxy, "proxy-1", nil)
	_, err := s.auth.InviteFirstProxy(t.Context(), nil, time.Minute)
	if !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
		t.Errorf("beside a proxy: got %v, want denied with a remedy", err)
	}
}

func TestHealthReportsAStoppedServer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	if err := s.auth.Health(t.Context()); err != nil {
		t.Errorf("while it serves: got %v, want nil", err)
	}
	s.must(s.stop())
	if err := s.auth.Health(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after it has stopped: got %v, want unavailable", err)
	}
}
