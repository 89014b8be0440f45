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

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/attachments"
	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(raftstoretest.UnansweredFuture))
}

// fixture is the updater and the directory of a new cluster.
type fixture struct {
	*testing.T
	*attachments.Updater
	*attachments.Directory
	st   *state.State
	join *join.Service
	now  time.Time // their clock: it stands still until the test moves it
}

var (
	anywhere = map[string]access.Strings{"*": {"*"}}
	onDev    = map[string]access.Strings{"env": {"dev"}}
)

// roles give their holders different views of the nodes.
var roles = []access.Role{
	{Name: "everything", Allow: []access.Grant{
		{Nodes: anywhere, Logins: access.Strings{"root", "ubuntu"}, Actions: access.Strings{"shell"}},
	}},
	{Name: "dev", Allow: []access.Grant{
		{Nodes: onDev, Logins: access.Strings{"ubuntu"}, Actions: access.Strings{"shell"}},
	}},
	{Name: "viewer", Allow: []access.Grant{
		{Nodes: anywhere, Actions: access.Strings{"list"}},
	}},
}

// newFixture creates a cluster with the roles, and the updater and directory over it.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	st, _ := statetest.NewCluster(t, roles...)
	f := &fixture{T: t, st: st, now: time.Now()}
	now := func() time.Time { return f.now }
	f.join = join.New(join.Config{
		Reader:   st.Reader,
		Machines: st.Machines,
		Tokens:   st.Tokens,
		Cluster:  statetest.Cluster,
		Now:      now,
	})
	f.Updater = attachments.NewUpdater(attachments.UpdaterConfig{
		Reader: st.Reader,
		Writer: st.Attachments,
		Now:    now,
		Log:    slog.New(slog.DiscardHandler),
	})
	f.Directory = newDirectory(st, now)
	return f
}

// userCaller is a user with the roles who calls.
func userCaller(name string, roles ...string) authrpc.Caller {
	return authrpc.Caller{Identity: statetest.User(name, roles...)}
}

func newDirectory(st *state.State, now func() time.Time) *attachments.Directory {
	return attachments.NewDirectory(attachments.DirectoryConfig{
		Machines:    st.Reader,
		Attachments: st.Reader,
		Policies:    st.Reader,
		Cluster:     statetest.Cluster,
		Now:         now,
	})
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// machine is a machine on record with its service key.
type machine struct {
	state.Machine
	key *ecdsa.PrivateKey
}

// addMachine puts a machine on record.
func (f *fixture) addMachine(kind identity.Kind, name string, labels identity.Labels) machine {
	f.Helper()
	_, token, err := f.join.Create(f.Context(), join.TokenRequest{Kind: kind})
	f.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	m := state.Machine{
		ID:      identity.MachineID(state.NewID()),
		Kind:    kind,
		Name:    name,
		Labels:  labels,
		Created: f.now.UTC(),
	}
	m.X509Key, err = x509.MarshalPKIXPublicKey(key.Public())
	f.must(err)
	f.must(f.st.Machines.AddMachine(f.Context(), m, token))
	return machine{m, key}
}

// attach is the node's signed attachment to the proxy, from the time at.
func (f *fixture) attach(n machine, proxy string, at time.Time) authrpc.AttachedNode {
	f.Helper()
	s, err := tunnel.SignAttachment(
		n.key,
		tunnel.Attachment{Node: n.ID, Proxy: proxy, Nonce: []byte("nonce"), Time: at},
	)
	f.must(err)
	return authrpc.AttachedNode{Node: n.ID, Attachment: s, Version: "v1"}
}

// report reports the list, which must succeed.
func (f *fixture) report(proxy machine, list ...authrpc.AttachedNode) {
	f.Helper()
	res, err := f.Report(
		f.Context(),
		proxy.Identity(statetest.Cluster),
		authrpc.ReportNodesRequest{Attached: list},
	)
	f.must(err)
	if res.ReportAfter <= 0 {
		f.Errorf("got the next report due after %s, want a positive time", res.ReportAfter)
	}
}

func (f *fixture) locate(name string) []authrpc.NodeInfo {
	f.Helper()
	got, err := f.Locate(f.Context(), name)
	f.must(err)
	return got.Nodes
}

func (f *fixture) online(n machine) bool {
	f.Helper()
	got := f.locate(string(n.ID))
	return len(got) == 1 && got[0].Online
}

// A node is found by each of its names and by nothing else. It is online while the last report of its proxy
// lists it; after that it was last seen at the time of the report that no longer did.
func TestAnAttachedNodeIsFoundUntilItLeaves(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	edge := f.addMachine(identity.Proxy, "edge", nil)
	web := f.addMachine(identity.Node, "web", identity.Labels{"env": "dev"})
	if got := f.locate("web"); len(got) != 1 || got[0].Online || !got[0].LastSeen.IsZero() {
		t.Errorf("before: got %+v, want it known, offline and never seen", got)
	}
	f.report(edge, f.attach(web, "edge", f.now))
	for _, name := range []string{"web", "web.example.com", string(web.ID), string(web.ID) + ".example.com"} {
		got := f.locate(name)
		if len(got) != 1 || !got[0].Online || len(got[0].Proxies) != 1 || got[0].Proxies[0] != "edge" ||
			got[0].Version != "v1" {
			t.Errorf("%s: got %+v, want it at edge", name, got)
		}
	}
	for _, name := range []string{
		"edge", "nothing", "we", "WEB", "web.other.com", "", "a b", "*", "we?", "web.", "name=web",
		string(web.ID)[:31],
	} {
		if got := f.locate(name); len(got) != 0 {
			t.Errorf("%q: got %+v, want no node", name, got)
		}
	}
	f.now = f.now.Add(time.Minute)
	left := f.now
	f.report(edge)
	f.now = f.now.Add(time.Hour)
	if got := f.locate("web"); len(got) != 1 || got[0].Online || !got[0].LastSeen.Equal(left.UTC()) {
		t.Errorf("after: got %+v, want it offline, last seen %s", got, left)
	}
}

func TestANodeMayBeAtSeveralProxies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.addMachine(identity.Proxy, "a", nil)
	b := f.addMachine(identity.Proxy, "b", nil)
	web := f.addMachine(identity.Node, "web", nil)
	f.report(a, f.attach(web, "a", f.now))
	f.report(b, f.attach(web, "b", f.now))
	if got := f.locate("web"); len(got[0].Proxies) != 2 {
		t.Errorf("got %v, want both proxies", got[0].Proxies)
	}
	f.report(a)
	if got := f.locate("web"); len(got[0].Proxies) != 1 || got[0].Proxies[0] != "b" {
		t.Errorf("got %v, want b alone", got[0].Proxies)
	}
}

func TestAReportThatChangesNothingWritesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	edge := f.addMachine(identity.Proxy, "edge", nil)
	web := f.addMachine(identity.Node, "web", nil)
	at := f.attach(web, "edge", f.now)
	f.report(edge, at)
	before := f.revision()
	for range 3 {
		f.report(edge, at)
	}
	if after := f.revision(); after != before+1 {
		t.Errorf("got %d more writes, want only the one of revision itself", after-before)
	}
}

// revision is the revision of a role that it writes.
func (f *fixture) revision() uint64 {
	f.Helper()
	rev, err := f.st.Roles.PutRole(
		f.Context(),
		state.Stored[access.Role]{},
		access.Role{Name: state.NewID()},
		f.now,
	)
	f.must(err)
	return rev
}

// Each bad attachment is reported together with a good one of another node. Only the good one counts.
func TestAProxyCannotAttachANodeWithoutItsSignature(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	edge := f.addMachine(identity.Proxy, "edge", nil)
	web := f.addMachine(identity.Node, "web", nil)
	db := f.addMachine(identity.Node, "db", nil)
	asWeb := f.attach(db, "edge", f.now)
	asWeb.Node = web.ID
	forged := f.attach(web, "edge", f.now)
	forged.Attachment.Sig = f.attach(db, "edge", f.now).Attachment.Sig
	escapes := f.attach(web, "edge", f.now)
	escapes.Version = "v1\x1b]0;owned"
	unknown := f.attach(web, "edge", f.now)
	unknown.Node = identity.MachineID(state.NewID())
	proxy := f.attach(edge, "edge", f.now)
	for name, a := range map[string]authrpc.AttachedNode{
		"an attachment of another node":       asWeb,
		"a forged signature":                  forged,
		"no signature":                        {Node: web.ID},
		"a version with escapes":              escapes,
		"an unknown node":                     unknown,
		"a proxy":                             proxy,
		"an attachment to another proxy":      f.attach(web, "other", f.now),
		"an attachment from the future":       f.attach(web, "edge", f.now.Add(time.Hour)),
		"an attachment from before it joined": f.attach(web, "edge", f.now.Add(-time.Hour)),
	} {
		f.report(edge, a, f.attach(db, "edge", f.now)) // the valid one beside it counts
		if f.online(web) || !f.online(db) {
			t.Errorf(
				"%s: got web online %v and db online %v, want only db",
				name,
				f.online(web),
				f.online(db),
			)
		}
	}
	f.report(edge, f.attach(web, "edge", f.now.Add(time.Second)))
	f.report(edge, f.attach(web, "edge", f.now)) // older than the last one
	got := f.locate("web")
	if len(got) != 1 || !got[0].Online {
		t.Errorf(
			"got %+v, want the node online: an older attachment neither counts nor removes the newer one",
			got,
		)
	}
}

// A user sees the nodes on which some role grants something. Names and labels select among them, and do not
// show more.
func TestAListShowsWhatTheUserMaySee(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addMachine(identity.Node, "dev-1", identity.Labels{"env": "dev", "team": "web"})
	f.addMachine(identity.Node, "dev-2", identity.Labels{"env": "dev", "team": "data"})
	f.addMachine(identity.Node, "prod-1", identity.Labels{"env": "prod", "team": "web"})
	f.addMachine(identity.Proxy, "edge", nil)
	byLabel := func(labels map[string]string) authrpc.ListNodesRequest {
		return authrpc.ListNodesRequest{Labels: labels}
	}
	byName := func(name string) authrpc.ListNodesRequest { return authrpc.ListNodesRequest{Name: name} }
	for _, tt := range []struct {
		name string
		role string
		q    authrpc.ListNodesRequest
		want string
	}{
		{"all of it", "everything", authrpc.ListNodesRequest{}, "[dev-1 dev-2 prod-1]"},
		{"only dev", "dev", authrpc.ListNodesRequest{}, "[dev-1 dev-2]"},
		{"nothing without a role", "", authrpc.ListNodesRequest{}, "[]"},
		{"by label", "everything", byLabel(map[string]string{"team": "web"}), "[dev-1 prod-1]"},
		{"by two labels", "everything", byLabel(map[string]string{"team": "web", "env": "p*"}), "[prod-1]"},
		{"by wildcard", "everything", byLabel(map[string]string{"name": "dev-?"}), "[dev-1 dev-2]"},
		{"by a label nobody has", "everything", byLabel(map[string]string{"rack": "*"}), "[]"},
		{"by name", "everything", byName("prod-1"), "[prod-1]"},
		{"by a name that is hidden", "dev", byName("prod-1"), "[]"},
		{"by name under the cluster", "everything", byName("prod-1.example.com"), "[prod-1]"},
		{"by part of a name", "everything", byName("prod"), "[]"},
	} {
		got, err := f.List(t.Context(), userCaller("alice", tt.role), tt.q)
		f.must(err)
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
	t.Parallel()
	f := newFixture(t)
	f.addMachine(identity.Node, "web.eu", nil)
	f.addMachine(identity.Node, "web.us", nil)
	f.addMachine(identity.Node, "webber.us", nil)
	got, err := f.List(t.Context(), userCaller("alice", "viewer"),
		authrpc.ListNodesRequest{Name: "web"})
	f.must(err)
	if names := fmt.Sprint(namesOf(got.Nodes)); names != "[web.eu web.us]" {
		t.Errorf("got %s, want web.eu and web.us", names)
	}
	if got := f.locate("web"); len(got) != 0 {
		t.Errorf("Locate: got %+v, want none: a proxy asks by the whole name", got)
	}
}

func TestAListIncludesTheLogins(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addMachine(identity.Node, "dev-1", identity.Labels{"env": "dev"})
	for role, want := range map[string]string{
		"everything": "[root ubuntu]",
		"dev":        "[ubuntu]",
		"viewer":     "[]",
	} {
		got, err := f.List(t.Context(), userCaller("alice", role), authrpc.ListNodesRequest{})
		f.must(err)
		if logins := fmt.Sprint(got.Nodes[0].Logins); logins != want {
			t.Errorf("%s: got logins %s, want %s", role, logins, want)
		}
	}
}

// A page has as many visible nodes as were asked for, and the pages together have all of them in order.
func TestAListComesInPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var want []string
	for i := range 7 {
		name, env := fmt.Sprintf("n-%d", i), "dev"
		if i%3 == 2 {
			env = "prod" // hidden, and not counted for the page
		} else {
			want = append(want, name)
		}
		f.addMachine(identity.Node, name, identity.Labels{"env": env})
	}
	var got []string
	for q := (authrpc.ListNodesRequest{Limit: 2}); ; {
		page, err := f.List(t.Context(), userCaller("alice", "dev"), q)
		f.must(err)
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
	t.Parallel()
	f := newFixture(t)
	labels := map[string]string{}
	for i := range 40 {
		labels[fmt.Sprint(i)] = "x"
	}
	_, err := f.List(t.Context(), userCaller("alice"), authrpc.ListNodesRequest{Labels: labels})
	if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Errorf("List: got %v, want invalid with a remedy", err)
	}
	edge := f.addMachine(identity.Proxy, "edge", nil)
	big := authrpc.ReportNodesRequest{Attached: make([]authrpc.AttachedNode, 20001)}
	_, err = f.Report(t.Context(), edge.Identity(statetest.Cluster), big)
	if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Errorf("Report: got %v, want invalid with a remedy", err)
	}
}

// Nobody is sent to a proxy that is locked, nor to a node that is, whatever proxies report. The lock of one
// machine says nothing of others.
func TestNoAttachmentOfALockedMachineIsUsed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	good, stolen := f.addMachine(identity.Proxy, "good", nil), f.addMachine(identity.Proxy, "stolen", nil)
	web, bad := f.addMachine(identity.Node, "web", nil), f.addMachine(identity.Node, "bad", nil)
	for _, proxy := range []machine{good, stolen} {
		f.report(proxy, f.attach(web, proxy.Name, f.now), f.attach(bad, proxy.Name, f.now))
	}
	locate := func(name string) authrpc.NodeInfo {
		t.Helper()
		got, err := f.Locate(t.Context(), name)
		f.must(err)
		if len(got.Nodes) != 1 {
			t.Fatalf("got %d nodes of the name %s, want 1", len(got.Nodes), name)
		}
		return got.Nodes[0]
	}
	if got := locate("web"); len(got.Proxies) != 2 || !locate("bad").Online {
		t.Fatalf("before the locks: got %+v, want both nodes at both proxies", got)
	}
	for _, m := range []machine{stolen, bad} {
		lock := access.NewLock(access.Facts{Machine: m.ID}, access.Effect{Kind: access.Deny})
		f.must(f.st.Locks.PutLock(t.Context(), state.Stored[access.Lock]{}, lock, f.now))
	}
	if got := locate("web"); fmt.Sprint(got.Proxies) != "[good]" || !got.Online {
		t.Errorf("a node at two proxies: got %+v, want it at the good one", got)
	}
	if got := locate("bad"); got.Online || len(got.Proxies) > 0 {
		t.Errorf("a locked node: got %+v, want it nowhere", got)
	}
	direct := userCaller("alice", "viewer")
	got, err := f.List(t.Context(), direct, authrpc.ListNodesRequest{})
	f.must(err)
	if names := fmt.Sprint(namesOf(got.Nodes)); names != "[web]" {
		t.Errorf("listed: got %s, want the node that can be reached", names)
	}
	byProxy := authrpc.Caller{Identity: direct.Identity, ProxyID: stolen.ID}
	got, err = f.List(t.Context(), byProxy, authrpc.ListNodesRequest{})
	if err != nil || len(got.Nodes) != 0 {
		t.Errorf("by the locked proxy: got %d nodes and %v, want none", len(got.Nodes), err)
	}
}
