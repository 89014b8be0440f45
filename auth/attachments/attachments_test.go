package attachments_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/attachments"
	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
)

type fixture struct {
	*testing.T
	*attachments.Registry
	st   *state.State
	join *join.Service
	now  time.Time
}

var roles = []access.Role{
	{
		Name: "everything",
		Allow: []access.Grant{
			{
				Nodes:   map[string]access.Strings{"*": {"*"}},
				Logins:  access.Strings{"root", "ubuntu"},
				Actions: access.Strings{"shell"},
			},
		},
	},
	{
		Name: "dev",
		Allow: []access.Grant{
			{
				Nodes:   map[string]access.Strings{"env": {"dev"}},
				Logins:  access.Strings{"ubuntu"},
				Actions: access.Strings{"shell"},
			},
		},
	},
	{
		Name: "viewer",
		Allow: []access.Grant{
			{Nodes: map[string]access.Strings{"*": {"*"}}, Actions: access.Strings{"list"}},
		},
	},
}

func newFixture(t *testing.T) *fixture {
	st, _ := statetest.NewCluster(t, roles...)
	r := &fixture{T: t, st: st, now: time.Now()}
	now := func() time.Time { return r.now }
	r.join = join.New(join.Config{State: st, Cluster: statetest.Cluster, Now: now})
	r.Registry = attachments.New(attachments.Config{
		State:   st,
		Cluster: statetest.Cluster,
		Now:     now,
		Log:     slog.New(slog.DiscardHandler),
	})
	return r
}

func (r *fixture) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

type machine struct {
	state.Machine
	key *ecdsa.PrivateKey
}

// addMachine puts a machine on record.
func (r *fixture) addMachine(kind identity.Kind, name string, labels identity.Labels) machine {
	r.Helper()
	_, token, err := r.join.Create(r.Context(), join.TokenRequest{Kind: kind})
	r.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r.must(err)
	m := state.Machine{
		ID:      identity.MachineID(state.NewID()),
		Kind:    kind,
		Name:    name,
		Labels:  labels,
		Created: r.now.UTC(),
	}
	m.X509Key, err = x509.MarshalPKIXPublicKey(key.Public())
	r.must(err)
	r.must(r.st.Machines.AddMachine(r.Context(), m, token))
	return machine{m, key}
}

// attach is the node's word that it is attached to the proxy, as of at.
func (r *fixture) attach(n machine, proxy string, at time.Time) authrpc.AttachedNode {
	r.Helper()
	s, err := tunnel.SignAttachment(
		n.key,
		tunnel.Attachment{Node: n.ID, Proxy: proxy, Nonce: []byte("nonce"), Time: at},
	)
	r.must(err)
	return authrpc.AttachedNode{Node: n.ID, Attachment: s, Version: "v1"}
}

func (r *fixture) report(proxy machine, list ...authrpc.AttachedNode) {
	r.Helper()
	res, err := r.Report(
		r.Context(),
		proxy.Identity(statetest.Cluster),
		authrpc.ReportNodesRequest{Attached: list},
	)
	r.must(err)
	if res.ReportAfter <= 0 {
		r.Errorf("got report again after %s, want a time", res.ReportAfter)
	}
}

func (r *fixture) locate(name string) []authrpc.NodeInfo {
	r.Helper()
	got, err := r.Locate(r.Context(), name)
	r.must(err)
	return got.Nodes
}

func (r *fixture) online(n machine) bool {
	r.Helper()
	got := r.locate(string(n.ID))
	return len(got) == 1 && got[0].Online
}

func TestAnAttachedNodeIsFoundUntilItLeaves(t *testing.T) {
	r := newFixture(t)
	edge, web := r.addMachine(
		identity.Proxy,
		"edge",
		nil,
	), r.addMachine(
		identity.Node,
		"web",
		identity.Labels{"env": "dev"},
	)
	if got := r.locate("web"); len(got) != 1 || got[0].Online || !got[0].LastSeen.IsZero() {
		t.Errorf("before: got %+v, want it known, offline and never seen", got)
	}
	r.report(edge, r.attach(web, "edge", r.now))
	for _, name := range []string{"web", "web.example.com", string(web.ID), string(web.ID) + ".example.com"} {
		got := r.locate(name)
		if len(got) != 1 || !got[0].Online || len(got[0].Proxies) != 1 || got[0].Proxies[0] != "edge" ||
			got[0].Version != "v1" {
			t.Errorf("%s: got %+v, want it at edge", name, got)
		}
	}
	for _, name := range []string{"edge", "nothing", "we", "WEB", "web.other.com", "", "a b", "*", "we?", "web.", "name=web", string(web.ID)[:31]} {
		if got := r.locate(name); len(got) != 0 {
			t.Errorf("%q: got %+v, want no node", name, got)
		}
	}
	r.now = r.now.Add(time.Minute)
	left := r.now
	r.report(edge)
	r.now = r.now.Add(time.Hour)
	if got := r.locate("web"); len(got) != 1 || got[0].Online || !got[0].LastSeen.Equal(left.UTC()) {
		t.Errorf("after: got %+v, want it offline, last seen %s", got, left)
	}
}

func TestANodeMayBeAtSeveralProxies(t *testing.T) {
	r := newFixture(t)
	a, b, web := r.addMachine(
		identity.Proxy,
		"a",
		nil,
	), r.addMachine(
		identity.Proxy,
		"b",
		nil,
	), r.addMachine(
		identity.Node,
		"web",
		nil,
	)
	r.report(a, r.attach(web, "a", r.now))
	r.report(b, r.attach(web, "b", r.now))
	if got := r.locate("web"); len(got[0].Proxies) != 2 {
		t.Errorf("got %v, want both proxies", got[0].Proxies)
	}
	r.report(a)
	if got := r.locate("web"); len(got[0].Proxies) != 1 || got[0].Proxies[0] != "b" {
		t.Errorf("got %v, want b alone", got[0].Proxies)
	}
}

func TestAReportThatChangesNothingWritesNothing(t *testing.T) {
	r := newFixture(t)
	edge, web := r.addMachine(identity.Proxy, "edge", nil), r.addMachine(identity.Node, "web", nil)
	at := r.attach(web, "edge", r.now)
	r.report(edge, at)
	before := r.revision()
	for range 3 {
		r.report(edge, at)
	}
	if after := r.revision(); after != before+1 {
		t.Errorf("got %d more writes, want only the one that asks", after-before)
	}
}

// revision writes a role, and tells which revision that was.
func (r *fixture) revision() uint64 {
	r.Helper()
	rev, err := r.st.Roles.PutRole(
		r.Context(),
		state.Stored[access.Role]{},
		access.Role{Name: state.NewID()},
		r.now,
	)
	r.must(err)
	return rev
}

func TestAProxyCannotAttachANodeWithoutItsSignature(t *testing.T) {
	r := newFixture(t)
	edge, web, db := r.addMachine(
		identity.Proxy,
		"edge",
		nil,
	), r.addMachine(
		identity.Node,
		"web",
		nil,
	), r.addMachine(
		identity.Node,
		"db",
		nil,
	)
	asWeb := r.attach(db, "edge", r.now)
	asWeb.Node = web.ID
	forged := r.attach(web, "edge", r.now)
	forged.Attachment.Sig = r.attach(db, "edge", r.now).Attachment.Sig
	odd := r.attach(web, "edge", r.now)
	odd.Version = "v1\x1b]0;owned"
	unknown := r.attach(web, "edge", r.now)
	unknown.Node = identity.MachineID(state.NewID())
	proxy := r.attach(edge, "edge", r.now)
	for name, a := range map[string]authrpc.AttachedNode{
		"another node's word": asWeb, "a forged signature": forged, "no signature": {Node: web.ID}, "a version with escapes": odd,
		"an unknown node": unknown, "a proxy": proxy,
		"a word for another proxy":     r.attach(web, "other", r.now),
		"a word from the future":       r.attach(web, "edge", r.now.Add(time.Hour)),
		"a word from before it joined": r.attach(web, "edge", r.now.Add(-time.Hour)),
	} {
		r.report(edge, a, r.attach(db, "edge", r.now)) // what is good beside it is taken
		if r.online(web) || !r.online(db) {
			t.Errorf(
				"%s: got web online %v and db online %v, want only db",
				name,
				r.online(web),
				r.online(db),
			)
		}
	}
	r.report(edge, r.attach(web, "edge", r.now.Add(time.Second)))
	r.report(edge, r.attach(web, "edge", r.now)) // older than what it said last
	got := r.locate("web")
	if len(got) != 1 || !got[0].Online {
		t.Errorf(
			"got %+v; an older word neither counts nor takes the newer one away while the proxy lists the node",
			got,
		)
	}
}

func TestAListShowsWhatTheUserMaySee(t *testing.T) {
	r := newFixture(t)
	r.addMachine(identity.Node, "dev-1", identity.Labels{"env": "dev", "team": "web"})
	r.addMachine(identity.Node, "dev-2", identity.Labels{"env": "dev", "team": "data"})
	r.addMachine(identity.Node, "prod-1", identity.Labels{"env": "prod", "team": "web"})
	r.addMachine(identity.Proxy, "edge", nil)
	for _, tt := range []struct {
		name string
		role string
		q    authrpc.ListNodesRequest
		want string
	}{
		{"all of it", "everything", authrpc.ListNodesRequest{}, "[dev-1 dev-2 prod-1]"},
		{"only dev", "dev", authrpc.ListNodesRequest{}, "[dev-1 dev-2]"},
		{"nothing without a role", "", authrpc.ListNodesRequest{}, "[]"},
		{"by label", "everything", authrpc.ListNodesRequest{Labels: map[string]string{"team": "web"}}, "[dev-1 prod-1]"},
		{"by labels", "everything", authrpc.ListNodesRequest{Labels: map[string]string{"team": "web", "env": "p*"}}, "[prod-1]"},
		{"by wildcard", "everything", authrpc.ListNodesRequest{Labels: map[string]string{"name": "dev-?"}}, "[dev-1 dev-2]"},
		{"by a label nobody has", "everything", authrpc.ListNodesRequest{Labels: map[string]string{"rack": "*"}}, "[]"},
		{"by name", "everything", authrpc.ListNodesRequest{Name: "prod-1"}, "[prod-1]"},
		{"by a name that is hidden", "dev", authrpc.ListNodesRequest{Name: "prod-1"}, "[]"},
		{"by name under the cluster", "everything", authrpc.ListNodesRequest{Name: "prod-1.example.com"}, "[prod-1]"},
		{"by part of a name", "everything", authrpc.ListNodesRequest{Name: "prod"}, "[]"},
	} {
		got, err := r.List(t.Context(), statetest.User("alice", tt.role), tt.q)
		r.must(err)
		if names := fmt.Sprint(namesOf(got.Nodes)); names != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, names, tt.want)
		}
	}
}

func namesOf(list []authrpc.NodeInfo) []string {
	out := make([]string, 0, len(list))
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

func TestAFirstLabelMatchesSeveralNodes(t *testing.T) {
	r := newFixture(t)
	r.addMachine(identity.Node, "web.eu", nil)
	r.addMachine(identity.Node, "web.us", nil)
	r.addMachine(identity.Node, "webber.us", nil)
	got, err := r.List(t.Context(), statetest.User("alice", "viewer"), authrpc.ListNodesRequest{Name: "web"})
	r.must(err)
	if names := fmt.Sprint(namesOf(got.Nodes)); names != "[web.eu web.us]" {
		t.Errorf("got %s, want web.eu and web.us", names)
	}
	if got := r.locate("web"); len(got) != 0 {
		t.Errorf("a proxy asks: got %+v, want none: it must be told the whole name", got)
	}
}

func TestAListIncludesTheLogins(t *testing.T) {
	r := newFixture(t)
	r.addMachine(identity.Node, "dev-1", identity.Labels{"env": "dev"})
	for role, want := range map[string]string{"everything": "[root ubuntu]", "dev": "[ubuntu]", "viewer": "[]"} {
		got, err := r.List(t.Context(), statetest.User("alice", role), authrpc.ListNodesRequest{})
		r.must(err)
		if logins := fmt.Sprint(got.Nodes[0].Logins); logins != want {
			t.Errorf("%s: got logins %s, want %s", role, logins, want)
		}
	}
}

func TestAListComesInPages(t *testing.T) {
	r := newFixture(t)
	var want []string
	for i := range 7 {
		name, env := fmt.Sprintf("n-%d", i), "dev"
		if i%3 == 2 {
			env = "prod" // not to be seen, and not to be counted
		} else {
			want = append(want, name)
		}
		r.addMachine(identity.Node, name, identity.Labels{"env": env})
	}
	var got []string
	for q := (authrpc.ListNodesRequest{Limit: 2}); ; {
		page, err := r.List(t.Context(), statetest.User("alice", "dev"), q)
		r.must(err)
		if len(page.Nodes) > 2 {
			t.Errorf("got %d nodes on a page of 2", len(page.Nodes))
		}
		got = append(got, namesOf(page.Nodes)...)
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLimitsAreReported(t *testing.T) {
	r := newFixture(t)
	labels := map[string]string{}
	for i := range 40 {
		labels[fmt.Sprint(i)] = "x"
	}
	if _, err := r.List(t.Context(), statetest.User("alice"), authrpc.ListNodesRequest{Labels: labels}); !fault.Is(
		err,
		fault.Invalid,
	) ||
		fault.Remedy(err) == "" {
		t.Errorf("got %v, want invalid with a remedy", err)
	}
	edge := r.addMachine(identity.Proxy, "edge", nil)
	big := authrpc.ReportNodesRequest{Attached: make([]authrpc.AttachedNode, 20001)}
	if _, err := r.Report(t.Context(), edge.Identity(statetest.Cluster), big); !fault.Is(
		err,
		fault.Invalid,
	) ||
		fault.Remedy(err) == "" {
		t.Errorf("got %v, want invalid with a remedy", err)
	}
}
