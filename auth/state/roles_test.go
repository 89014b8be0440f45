package state

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
)

// RoleSet returns the same pointer until a role changes, and then the new roles.
func TestRoleSetFollowsEveryChange(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.RoleSet(t.Context()); !fault.Is(err, fault.NotFound) {
		t.Errorf("without a cluster: got %v, want not found", err)
	}
	rev, err := s.Roles.PutRole(t.Context(), Stored[access.Role]{}, access.Role{Name: "one"}, time.Now())
	must(t, err)
	set, err := s.RoleSet(t.Context())
	must(t, err)
	if set.Revision != rev || len(set.Policy.Roles) != 1 {
		t.Errorf("got %+v, want the role at revision %d", set, rev)
	}
	if again, err := s.RoleSet(t.Context()); err != nil || again != set {
		t.Errorf("got another set although nothing changed (%v)", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- s.AwaitRules(t.Context(), rev) }()
	old, err := s.Role(t.Context(), "one")
	must(t, err)
	must(t, s.Roles.RemoveRole(t.Context(), old, time.Now()))
	must(t, <-waited)
	if set, err = s.RoleSet(t.Context()); err != nil || len(set.Policy.Roles) != 0 || set.Revision <= rev {
		t.Errorf("got %+v, %v, want no role", set, err)
	}
}
