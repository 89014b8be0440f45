package resources_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// A grant on one kind of machine reaches no machine of the other, whether it is named by its name or its id.
func TestAGrantOnNodesReachesNoProxy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	machines := map[access.Resource]string{
		access.Nodes:   string(f.addNode("web", "dev").ID),
		access.Proxies: string(f.addMachine(identity.Proxy, "edge", "dev").ID),
	}
	names := map[access.Resource]string{access.Nodes: "web", access.Proxies: "edge"}
	for _, kind := range []access.Resource{access.Nodes, access.Proxies} {
		other := access.Proxies
		if kind == access.Proxies {
			other = access.Nodes
		}
		keeper := keeperOf(kind)
		for _, name := range []string{names[other], machines[other]} {
			_, err := f.get(keeper, kind, name)
			f.wantFault("get "+string(kind)+" "+name, err, fault.NotFound)
			_, err = f.apply(keeper, machineDoc(kind.Singular(), name, map[string]string{"env": "prod"}))
			f.wantFault("apply "+string(kind)+" "+name, err, fault.NotFound)
			f.wantFault("rm "+string(kind)+" "+name, f.remove(keeper, kind, name), fault.NotFound)
			f.wantFault("rm "+string(other)+" "+name, f.remove(keeper, other, name), fault.Denied)
		}
		got, err := f.get(keeper, kind, "")
		if err != nil || len(got.Resources) != 1 || got.Resources[0].Metadata.Name != names[kind] {
			t.Errorf("list %s: got %+v and %v, want %s alone", kind, got.Resources, err, names[kind])
		}
		if _, err := f.get(keeper, kind, machines[kind]); err != nil {
			t.Errorf("get %s by its id: %v", kind, err)
		}
	}
	for kind, name := range names {
		if err := f.remove(keeperOf(kind), kind, name); err != nil {
			t.Errorf("rm %s %s: got %v, want it removed", kind, name, err)
		}
	}
}

// The only replica is shown to whoever may read replicas. Nobody can change or remove it.
func TestTheOnlyReplicaIsShownAndKept(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, err := f.st.Replicas.Replica(t.Context(), "auth-1", time.Now())
	f.must(err)
	replica := doc("replica", "auth-1", `{}`)
	for _, other := range access.Resources {
		if other != access.Replicas {
			f.wantRefusedAndRecorded(keeperOf(other), access.Replicas, replica)
		}
	}
	keeper := keeperOf(access.Replicas)
	got, err := f.get(keeper, access.Replicas, "")
	if err != nil || len(got.Resources) != 1 || got.Resources[0].Kind != "replica" {
		t.Errorf("got %+v and %v, want the replica", got.Resources, err)
	}
	_, err = f.apply(keeper, replica)
	f.wantFault("apply", err, fault.Invalid)
	f.wantFault("rm", f.remove(keeper, access.Replicas, "auth-1"), fault.Invalid)
	f.wantFault("rm of another", f.remove(keeper, access.Replicas, "auth-2"), fault.NotFound)
}

// An administrator changes the labels that administrators give. What a machine says of itself stays, whether
// the document repeats it or not, and cannot be changed or added.
func TestALabelOfTheMachineItselfIsNotTheAdministrators(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m := f.addNode("web", "dev")
	old, err := f.st.Machine(t.Context(), m.ID)
	f.must(err)
	m.Labels = identity.Labels{"env": "dev", "self.rack": "7"}
	_, err = f.st.Machines.ChangeMachine(t.Context(), old, m)
	f.must(err)
	for _, labels := range []map[string]string{
		{"env": "prod"},
		{"env": "prod", "self.rack": "7"},
	} {
		got := f.mustApply(nodeDoc("web", labels)).Resource.Metadata.Labels
		if len(got) != 2 || got["env"] != "prod" || got["self.rack"] != "7" {
			t.Errorf("after %v: got %v, want env=prod beside self.rack=7", labels, got)
		}
	}
	for _, labels := range []map[string]string{
		{"self.rack": "8"},
		{"self.rack": "7", "self.env": "prod"},
	} {
		_, err := f.apply(admin, nodeDoc("web", labels))
		f.wantFault(fmt.Sprint("apply ", labels), err, fault.Invalid)
	}
}

// Who may create tokens adds nodes. For a proxy they also need the grant on proxies.
func TestATokenForAProxyNeedsTheGrantOnProxies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	both := keeperOf(access.Tokens)
	both.Roles = append(both.Roles, keeperOf(access.Proxies).Roles...)
	for name, tt := range map[string]struct {
		who     identity.Identity
		kind    string
		allowed bool
	}{
		"node-by-tokens":              {keeperOf(access.Tokens), "node", true},
		"proxy-by-tokens":             {keeperOf(access.Tokens), "proxy", false},
		"proxy-by-tokens-and-proxies": {both, "proxy", true},
		"proxy-by-admin":              {admin, "proxy", true},
		"node-by-proxies":             {keeperOf(access.Proxies), "node", false},
	} {
		_, err := f.apply(tt.who, doc("token", name, `{"kind":"`+tt.kind+`"}`))
		if !tt.allowed {
			f.wantFault(name, err, fault.Denied)
		} else if err != nil {
			t.Errorf("%s: got %v, want the token", name, err)
		}
	}
}
