package auth

import (
	"cmp"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
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

// The first proxy gets the public names of its invitation and no others; without any, the cluster's name.
func TestTheFirstProxyGetsItsPublicNamesAlone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		invited []string
		asked   string // empty: the name of the cluster
		admits  bool
	}{
		{nil, "", true},
		{nil, "gate.example.org", false},
		{[]string{"gate.example.org"}, "gate.example.org", true},
		{[]string{"gate.example.org"}, "", false},
	} {
		s := newTestServer(t)
		token, err := s.auth.InviteFirstProxy(t.Context(), tt.invited, time.Minute)
		s.must(err)
		req, _ := s.request(token.String(), identity.Proxy, "proxy-1")
		req.PublicNames = []string{cmp.Or(tt.asked, s.auth.Cluster())}
		_, err = authrpc.Call(t.Context(), s.client(nil), authrpc.Join, req)
		if tt.admits && err != nil || !tt.admits && !fault.Is(err, fault.Denied) {
			t.Errorf("invited for %q, asked %q: got %v, want %v", tt.invited, tt.asked, err, tt.admits)
		}
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
