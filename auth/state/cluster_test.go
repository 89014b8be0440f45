package state

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

func TestClusterIsCreatedOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	first := InitialRecords{Cluster: Cluster{Name: "one.example"}, Keyring: []byte(`{}`)}
	must(t, v.CreateCluster(t.Context(), first))
	second := InitialRecords{Cluster: Cluster{Name: "two.example"}, Keyring: []byte(`{}`)}
	err := v.CreateCluster(t.Context(), second)
	if !fault.Is(err, fault.Conflict) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a conflict with a remedy", err)
	}
	if c, err := s.Cluster(t.Context()); err != nil || c.Name != "one.example" {
		t.Errorf("got %q and %v, want the first cluster", c.Name, err)
	}
}

func TestKeyringSaveComparesBeforeItReplaces(t *testing.T) {
	t.Parallel()
	s := open(t)
	k := s.Keyring
	if _, err := k.Load(t.Context()); !fault.Is(err, fault.NotFound) || fault.Remedy(err) == "" {
		t.Errorf("without a cluster: got %v, want not found with a remedy", err)
	}
	must(t, k.Save(t.Context(), nil, []byte(`{"v":1}`)))
	for name, old := range map[string][]byte{"nothing": nil, "another": []byte(`{"v":2}`)} {
		if err := k.Save(t.Context(), old, []byte(`{"v":3}`)); !fault.Is(err, fault.Conflict) {
			t.Errorf("%s: got %v, want a conflict", name, err)
		}
	}
	must(t, k.Save(t.Context(), []byte(`{"v":1}`), []byte(`{"v":2}`)))
	if got, err := k.Load(t.Context()); err != nil || string(got) != `{"v":2}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestReplicaIDIsStable(t *testing.T) {
	t.Parallel()
	s := open(t)
	one, err := s.Replicas.Replica(t.Context(), "auth-1", time.Now())
	must(t, err)
	again, err := s.Replicas.Replica(t.Context(), "auth-1", time.Now())
	must(t, err)
	other, err := s.Replicas.Replica(t.Context(), "auth-2", time.Now())
	must(t, err)
	if one != again || one == other || identity.CheckMachineID(one) != nil {
		t.Errorf("got %s, %s and %s, want one for each replica", one, again, other)
	}
}
