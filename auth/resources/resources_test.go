package resources_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a service over a real store. In it the user admin may do everything, and for each kind there is
// a user who may do everything with that kind alone (keeperOf).
type fixture struct {
	*testing.T
	*resources.Service
	st    *state.State
	vault *state.Vault
	join  *join.Service
}

var admin = statetest.User("root@example.com", "admin")

// keeperOf is a user who may do everything with one kind of document, and open a shell as ubuntu on nodes
// where env is dev.
func keeperOf(kind access.Resource) identity.Identity {
	return statetest.User(string(kind)+"-keeper", string(kind)+"-keeper", "dev")
}

// newFixture makes a cluster with the roles admin and dev, and for each kind a role that allows everything
// with it.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	roles := []access.Role{resources.BuiltInAdmin(), {Name: "dev", Allow: []access.Grant{{
		Nodes:   map[string]access.Strings{"env": {"dev"}},
		Logins:  access.Strings{"ubuntu"},
		Actions: access.Strings{"shell"},
	}}}}
	for _, k := range access.Resources {
		roles = append(roles, access.Role{Name: string(k) + "-keeper", Allow: []access.Grant{
			{Resources: access.Strings{string(k)}, Actions: access.Strings{"get", "apply", "rm"}},
		}})
	}
	st, vault := statetest.NewCluster(t, roles...)
	f := &fixture{T: t, st: st, vault: vault}
	f.join = join.New(join.Config{
		Reader:   st.Reader,
		Machines: st.Machines,
		Tokens:   st.Tokens,
		Cluster:  statetest.Cluster,
		Now:      time.Now,
	})
	f.Service = resources.New(resources.Config{
		Policies:      st.Reader,
		Events:        st.Events,
		Roles:         st.Roles,
		Connectors:    vault.Connectors,
		Users:         st.Users,
		Tokens:        st.Tokens,
		Join:          f.join,
		Machines:      st.Machines,
		Replicas:      st.Reader,
		Settings:      st.Settings,
		Locks:         st.Locks,
		Confirmations: everyone{},
		Log: audit.New(audit.Config{
			Store: st.Events,
			Now:   time.Now,
			Log:   slog.New(slog.DiscardHandler),
		}),
		Now: time.Now,
	})
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// wantFault fails unless err is of the kind and has a remedy.
func (f *fixture) wantFault(what string, err error, kind fault.Kind) {
	f.Helper()
	if !fault.Is(err, kind) || fault.Remedy(err) == "" {
		f.Errorf("%s: got %v, want %s with a remedy", what, err, kind)
	}
}

func (f *fixture) apply(who identity.Identity, r authrpc.Resource) (authrpc.ApplyResourceResponse, error) {
	return f.Apply(f.Context(), authrpc.Caller{Identity: who}, r)
}

// mustApply applies the document as admin.
func (f *fixture) mustApply(r authrpc.Resource) authrpc.ApplyResourceResponse {
	f.Helper()
	out, err := f.apply(admin, r)
	f.must(err)
	return out
}

func (f *fixture) get(
	who identity.Identity, kind access.Resource, name string,
) (authrpc.GetResourcesResponse, error) {
	req := authrpc.GetResourcesRequest{Kind: kind, Name: name}
	return f.Get(f.Context(), authrpc.Caller{Identity: who}, req)
}

// eventsAfter asks for the page of events after a number.
func eventsAfter(number string) authrpc.GetResourcesRequest {
	return authrpc.GetResourcesRequest{Kind: access.Events, After: number}
}

// getOne reads one document as admin.
func (f *fixture) getOne(kind access.Resource, name string) authrpc.Resource {
	f.Helper()
	got, err := f.get(admin, kind, name)
	f.must(err)
	if len(got.Resources) != 1 {
		f.Fatalf("got %d resources, want 1", len(got.Resources))
	}
	return got.Resources[0]
}

func (f *fixture) remove(who identity.Identity, kind access.Resource, name string) error {
	req := authrpc.RemoveResourceRequest{Kind: kind, Name: name}
	return f.Remove(f.Context(), authrpc.Caller{Identity: who}, req)
}

// countEvents counts the events of the codes.
func (f *fixture) countEvents(codes ...events.Code) (n int) {
	f.Helper()
	for _, e := range statetest.Events(f, f.st) {
		for _, code := range codes {
			if e.Code == code {
				n++
			}
		}
	}
	return n
}

func (f *fixture) putUser(u state.User) {
	f.Helper()
	f.must(f.st.Users.PutUser(f.Context(), state.Stored[state.User]{}, u, state.By{Time: time.Now()}))
}

// addUser stores a user, as a login does.
func (f *fixture) addUser(name string, roles ...string) {
	f.Helper()
	f.putUser(state.User{
		Connector: "corp",
		Subject:   "sub-" + name,
		Name:      name,
		Roles:     roles,
		Created:   time.Now(),
	})
}

// addNode stores a node, as a join does.
func (f *fixture) addNode(name, env string) state.Machine {
	f.Helper()
	return f.addMachine(identity.Node, name, env)
}

// addMachine stores a node or a proxy, as a join does.
func (f *fixture) addMachine(kind identity.Kind, name, env string) state.Machine {
	f.Helper()
	_, token, err := f.join.Create(f.Context(), join.TokenRequest{Kind: kind})
	f.must(err)
	m := state.Machine{
		ID:      identity.MachineID(state.NewID()),
		Kind:    kind,
		Name:    name,
		Labels:  identity.Labels{"env": env},
		Created: time.Now(),
	}
	f.must(f.st.Machines.AddMachine(f.Context(), m, token))
	return m
}

func doc(kind, name, spec string) authrpc.Resource {
	return authrpc.Resource{
		Kind:     kind,
		Version:  "v1",
		Metadata: authrpc.Metadata{Name: name},
		Spec:     json.RawMessage(spec),
	}
}

func nodeDoc(name string, labels map[string]string) authrpc.Resource {
	return machineDoc("node", name, labels)
}

func machineDoc(kind, name string, labels map[string]string) authrpc.Resource {
	r := doc(kind, name, `{}`)
	r.Metadata.Labels = labels
	return r
}

const (
	roleSpec = `{"allow":[{"nodes":{"env":"dev"},"logins":["ubuntu"],"actions":["shell"]}],` +
		`"options":{"cert_ttl":"4h"}}`
	limitsSpec = `{"options":{"idle_timeout":"10m","max_session":"8h","max_sessions":3,` +
		`"end_with_certificate":true}}`
	connectorSpec = `{"type":"oidc","issuer":"https://login.example.org","client_id":"threshold",` +
		`"client_secret":"hunter2","roles":[{"claim":"groups","value":"ops","roles":["dev"]}]}`
)

// replaced is spec with the first old replaced by new.
func replaced(spec, old, new string) string { return strings.Replace(spec, old, new, 1) }

// For every kind: users who may do everything with another kind are refused, and the refusals are audit
// events; admin may apply, get and remove a document, and each change is one audit event.
func TestEveryKindIsReadAndChangedOnlyAsRolesAllow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addUser("alice")
	f.addNode("web", "dev")
	f.addMachine(identity.Proxy, "edge", "dev")
	user := access.UserFact{Connector: "corp", Subject: "sub-alice"}
	lock := access.NewLock(access.Facts{User: user}, access.Effect{Kind: access.Deny})
	for kind, r := range map[access.Resource]authrpc.Resource{
		access.Roles:      doc("role", "ops", roleSpec),
		access.Connectors: doc("connector", "partner", connectorSpec),
		access.Users:      doc("user", "corp/sub-alice", `{"roles":[]}`),
		access.Tokens:     doc("token", "t1", `{"kind":"node","ttl":"5m"}`),
		access.Nodes:      nodeDoc("web", map[string]string{"env": "dev"}),
		access.Proxies:    machineDoc("proxy", "edge", map[string]string{"env": "dev"}),
		// By force, because the user may be removed when it is applied.
		access.ClusterLocks: doc("lock", lock.ID, `{"match":{"user":"corp/sub-alice"},"force":true}`),
	} {
		name := r.Metadata.Name
		for _, other := range access.Resources {
			if other != kind {
				f.wantRefusedAndRecorded(keeperOf(other), kind, r)
			}
		}
		applied := f.countEvents(events.ResourceApplied, events.TokenCreated)
		removed := f.countEvents(events.ResourceRemoved)
		if _, err := f.apply(admin, r); err != nil {
			t.Errorf("apply %s by admin: got %v", kind, err)
		}
		if got := f.getOne(kind, name); got.Kind != r.Kind || got.Metadata.Revision == 0 {
			t.Errorf("get %s: got %+v, want the document with its revision", kind, got)
		}
		if err := f.remove(admin, kind, name); err != nil {
			t.Errorf("rm %s by admin: got %v", kind, err)
		}
		_, err := f.get(admin, kind, name)
		f.wantFault("get "+string(kind)+" after rm", err, fault.NotFound)
		applied = f.countEvents(events.ResourceApplied, events.TokenCreated) - applied
		removed = f.countEvents(events.ResourceRemoved) - removed
		if applied != 1 || removed != 1 {
			t.Errorf("%s: got %d applied and %d removed events, want one each", kind, applied, removed)
		}
	}
}

// wantRefusedAndRecorded fails unless who may do nothing with the kind, and each try is an audit event.
func (f *fixture) wantRefusedAndRecorded(who identity.Identity, kind access.Resource, r authrpc.Resource) {
	f.Helper()
	before := f.countEvents(events.ResourceRefused)
	what := fmt.Sprintf(" %s by %s", kind, who.Name)
	_, err := f.get(who, kind, "")
	f.wantFault("get"+what, err, fault.Denied)
	_, err = f.apply(who, r)
	f.wantFault("apply"+what, err, fault.Denied)
	f.wantFault("rm"+what, f.remove(who, kind, r.Metadata.Name), fault.Denied)
	if got := f.countEvents(events.ResourceRefused) - before; got != 3 {
		f.Errorf("%s: got %d refusals in the audit log, want 3", what, got)
	}
}

func TestRoleIsReadAsApplied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	got := f.mustApply(doc("role", "ops", roleSpec))
	if !got.Created || got.Resource.Metadata.Name != "ops" {
		t.Errorf("got %+v, want ops, created", got)
	}
	if again := f.mustApply(f.getOne(access.Roles, "ops")); again.Created { // apply accepts what get shows
		t.Error("got created for a role that existed")
	}
	policy, err := f.st.Policy(t.Context())
	f.must(err)
	want := access.Set(access.Duration(4 * time.Hour))
	if r := policy.Roles["ops"]; len(r.Allow) != 1 || r.Options.CertTTL != want {
		t.Errorf("got %+v in the policy, want the role", r)
	}
}

// The session limits of a role are shown as they were applied, and are in the policy.
func TestSessionLimitsAreReadAsApplied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustApply(doc("role", "ops", limitsSpec))
	shown := f.getOne(access.Roles, "ops")
	if string(shown.Spec) != limitsSpec {
		t.Errorf("got %s, want %s", shown.Spec, limitsSpec)
	}
	f.mustApply(shown)
	policy, err := f.st.Policy(t.Context())
	f.must(err)
	want := access.Options{
		IdleTimeout:        access.Set(access.Duration(10 * time.Minute)),
		MaxSession:         access.Set(access.Duration(8 * time.Hour)),
		MaxSessions:        access.Set(3),
		EndWithCertificate: access.Set(true),
	}
	if got := policy.Roles["ops"].Options; got != want {
		t.Errorf("got %+v in the policy, want %+v", got, want)
	}
}

// That an option is off is not the same as that it is left out: it is stored, shown and applied as it was.
func TestAnOptionThatIsOffStaysSo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const spec = `{"options":{"end_with_certificate":false}}`
	f.mustApply(doc("role", "ops", spec))
	f.mustApply(f.getOne(access.Roles, "ops"))
	if shown := f.getOne(access.Roles, "ops"); string(shown.Spec) != spec {
		t.Errorf("got %s, want %s", shown.Spec, spec)
	}
	f.mustApply(doc("role", "ops", `{"options":{}}`))
	if shown := f.getOne(access.Roles, "ops"); string(shown.Spec) != `{}` {
		t.Errorf("got %s, want no option", shown.Spec)
	}
}

// A role as the first release shows it is accepted by every later one, with all that it says. What a later
// release adds is refused where people write it, and named: they would think that it counts.
func TestTheGoldenRoleDocumentIsAccepted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	text, err := os.ReadFile(filepath.Join("testdata", "role.json"))
	f.must(err)
	var golden authrpc.Resource
	f.must(json.Unmarshal(text, &golden))
	f.mustApply(golden)
	policy, err := f.st.Policy(t.Context())
	f.must(err)
	role := policy.Roles["ops"]
	want := access.Options{
		CertTTL:            access.Set(access.Duration(8 * time.Hour)),
		IdleTimeout:        access.Set(access.Duration(10 * time.Minute)),
		MaxSession:         access.Set(access.Duration(12 * time.Hour)),
		MaxSessions:        access.Set(5),
		EndWithCertificate: access.Set(false),
	}
	if len(role.Allow) != 3 || len(role.Deny) != 1 || role.Options != want {
		t.Errorf("got %+v, want what the golden file says", role)
	}
	shown := f.getOne(access.Roles, "ops")
	f.mustApply(shown)
	if again := f.getOne(access.Roles, "ops"); !bytes.Equal(again.Spec, shown.Spec) {
		t.Errorf("got %s, want it unchanged when what is shown is applied: %s", again.Spec, shown.Spec)
	}
	for name, change := range map[string]string{
		"record":   `"record":"strict","cert_ttl"`,
		"services": `"services":"db","cert_ttl"`,
	} {
		later := golden
		later.Spec = bytes.Replace(golden.Spec, []byte(`"cert_ttl"`), []byte(change), 1)
		_, err := f.apply(admin, later)
		f.wantFault("a field of a later release", err, fault.Invalid)
		if !strings.Contains(fault.Message(err), name) {
			t.Errorf("got %q, want %s named", fault.Message(err), name)
		}
	}
}

func TestStaleRevisionsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustApply(doc("role", "ops", roleSpec))
	shown := f.getOne(access.Roles, "ops")
	f.mustApply(shown)
	_, err := f.apply(admin, shown)
	f.wantFault("the revision before", err, fault.Conflict)
	missing := doc("role", "new", roleSpec)
	missing.Metadata.Revision = 7
	_, err = f.apply(admin, missing)
	f.wantFault("a revision of a missing document", err, fault.Conflict)
}

// Each case is a document that cannot be used. The error must be fault Invalid and name every mistake with
// its path.
func TestSpecsAreDecodedStrictly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addUser("alice")
	otherVersion := doc("role", "x", "")
	otherVersion.Version = "v2"
	for name, tt := range map[string]struct {
		r    authrpc.Resource
		says []string
	}{
		"unknown keys": {
			doc("role", "x", `{"alow":[],"options":{"certttl":"8h"}}`),
			[]string{"alow", "did you mean", "certttl"},
		},
		"all errors at once": {
			doc("role", "x",
				`{"allow":[{"nodes":{"env":"a"},"actions":["fly"]}],"options":{"cert_ttl":"99h"}}`),
			[]string{"fly", "cert_ttl"},
		},
		"limits out of range": {
			doc("role", "x", `{"options":{"idle_timeout":"25h","max_session":"1ms","max_sessions":1001}}`),
			[]string{"options.idle_timeout", "options.max_session", "options.max_sessions"},
		},
		"a limit of no session": {
			doc("role", "x", `{"options":{"max_sessions":0}}`),
			[]string{"options.max_sessions", "0 is not between 1 and 1000"},
		},
		"a limit without a unit": {
			doc("role", "x", `{"options":{"idle_timeout":600}}`), []string{"options.idle_timeout"},
		},
		"a limit that is no boolean": {
			doc("role", "x", `{"options":{"end_with_certificate":"sometimes"}}`),
			[]string{"options.end_with_certificate"},
		},
		"a connector over plain http": {
			doc("connector", "x", `{"type":"oidc","issuer":"http://evil.example.org","client_id":"x"}`),
			[]string{"https"},
		},
		"a name in a spec":         {doc("role", "x", `{"name":"admin"}`), []string{"name"}},
		"an invalid document name": {doc("role", "a b", roleSpec), []string{"metadata.name"}},
		"a token that lives long":  {doc("token", "x", `{"kind":"node","ttl":"2h"}`), []string{"ttl"}},
		"a token for auth":         {doc("token", "x", `{"kind":"auth"}`), []string{"kind"}},
		"the name of a user":       {doc("user", "corp/sub-alice", `{"name":"root"}`), []string{"name"}},
		"invalid JSON":             {doc("role", "x", `{`), []string{"spec"}},
		"another version":          {otherVersion, []string{"v2"}},
		"an unknown kind":          {doc("spell", "x", `{}`), []string{"spell"}},
	} {
		_, err := f.apply(admin, tt.r)
		f.wantFault(name, err, fault.Invalid)
		for _, s := range tt.says {
			if !strings.Contains(fault.Message(err), s) {
				t.Errorf("%s: got %q, want it to say %q", name, fault.Message(err), s)
			}
		}
	}
}

func TestTheClientSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	got := f.mustApply(doc("connector", "corp", connectorSpec))
	shown := f.getOne(access.Connectors, "corp")
	list, err := f.get(admin, access.Connectors, "")
	f.must(err)
	all, err := json.Marshal([]any{got, shown, list})
	f.must(err)
	if strings.Contains(string(all), "hunter2") || !strings.Contains(string(shown.Spec), resources.Sealed) {
		t.Errorf("got %s, want %s in place of the secret", all, resources.Sealed)
	}
	f.mustApply(shown)
	stored, err := f.vault.Connectors.Connector(t.Context(), "corp")
	f.must(err)
	if stored.Secret != "hunter2" {
		t.Errorf("got secret %q after applying what get showed, want it unchanged", stored.Secret)
	}
}

func TestStoredClientSecretIsNotSentToAnotherProvider(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustApply(doc("connector", "corp", connectorSpec))
	for _, change := range []string{"login.example.org", "threshold"} {
		other := f.getOne(access.Connectors, "corp")
		other.Metadata.Revision = 0
		other.Spec = json.RawMessage(replaced(string(other.Spec), change, "evil.example.net"))
		_, err := f.apply(admin, other)
		f.wantFault("another "+change+" with the stored secret", err, fault.Invalid)
	}
	_, err := f.apply(admin, doc("connector", "new", replaced(connectorSpec, "hunter2", resources.Sealed)))
	f.wantFault("a new connector with "+resources.Sealed, err, fault.Invalid)
}

// With another issuer, the users of a connector would be other people, who would get the first ones' roles.
func TestConnectorKeepsItsIssuer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	otherIssuer := replaced(connectorSpec, "login.example.org", "other.example.org")
	for _, spec := range []string{connectorSpec, replaced(connectorSpec, `"threshold"`, `"another-client"`)} {
		f.mustApply(doc("connector", "partner", spec))
	}
	refused := func(when string) {
		t.Helper()
		_, err := f.apply(admin, doc("connector", "partner", otherIssuer))
		f.wantFault(when, err, fault.Conflict)
		if !strings.Contains(fault.Remedy(err), "another name") {
			t.Errorf("%s: got remedy %q, want another name", when, fault.Remedy(err))
		}
	}
	refused("while the connector exists")
	f.must(f.remove(admin, access.Connectors, "partner"))
	refused("after its removal")
	f.mustApply(doc("connector", "other", otherIssuer))
}

func TestAdminRoleCannotBeRemovedOrWeakened(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.wantFault("rm", f.remove(admin, access.Roles, "admin"), fault.Denied)
	const everything = `{"resources":"*","actions":["get","apply","rm"]}`
	for name, spec := range map[string]string{
		"empty":                `{}`,
		"read only":            `{"allow":[{"resources":"*","actions":["get"]}]}`,
		"without roles":        `{"allow":[{"resources":["users"],"actions":["get","apply","rm"]}]}`,
		"with a deny of roles": `{"allow":[` + everything + `],"deny":[{"resources":"roles"}]}`,
	} {
		_, err := f.apply(admin, doc("role", "admin", spec))
		f.wantFault(name, err, fault.Denied)
	}
	shell := `{"nodes":{"*":"*"},"logins":["root"],"actions":["shell"]}`
	if _, err := f.apply(admin, doc("role", "admin", `{"allow":[`+everything+`,`+shell+`]}`)); err != nil {
		t.Errorf("more than before: got %v", err)
	}
}

// Users who may change one kind of document, but not roles, must not get more rights by it. Each escalation
// is tried by the keeper of every kind but roles, and at last by admin, who may do all of it.
func TestNoKindEscalatesToAnother(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addUser("alice")
	f.addUser("boss", "admin")
	f.putUser(state.User{Connector: "corp", Subject: "sub-chief", Name: "chief", Mapped: []string{"admin"}})
	f.addNode("prod-db", "prod")
	apply := func(r authrpc.Resource) func(identity.Identity) error {
		return func(who identity.Identity) error { _, err := f.apply(who, r); return err }
	}
	remove := func(kind access.Resource, name string) func(identity.Identity) error {
		return func(who identity.Identity) error { return f.remove(who, kind, name) }
	}
	escalations := map[string]func(who identity.Identity) error{
		"give oneself admin":       apply(doc("user", "corp/sub-alice", `{"roles":["admin"]}`)),
		"take admin from another":  apply(doc("user", "corp/sub-boss", `{"roles":[]}`)),
		"remove an administrator":  remove(access.Users, "corp/sub-boss"),
		"remove a mapped admin":    remove(access.Users, "corp/sub-chief"),
		"write a role":             apply(doc("role", "mine", roleSpec)),
		"relabel a node for shell": apply(nodeDoc("prod-db", map[string]string{"env": "dev"})),
		"map everyone to admin": apply(doc("connector", "mine",
			replaced(connectorSpec, `"dev"`, `"admin"`))),
		"use a provider of one's own": apply(doc("connector", "corp",
			replaced(connectorSpec, "login.example.org", "mine.example.org"))),
	}
	others := []access.Resource{
		access.Users, access.Connectors, access.Nodes, access.Proxies, access.Replicas, access.Tokens,
		access.ClusterSettings, access.Events,
	}
	for _, kind := range others {
		for what, try := range escalations {
			f.wantFault(what+" by the keeper of "+string(kind), try(keeperOf(kind)), fault.Denied)
		}
	}
	// Changes that give them nothing new are allowed.
	ownRole := doc("user", "corp/sub-alice", `{"roles":["dev"]}`)
	if _, err := f.apply(keeperOf(access.Users), ownRole); err != nil {
		t.Errorf("giving a role that one has: got %v", err)
	}
	unmatched := nodeDoc("prod-db", map[string]string{"env": "prod", "rack": "7"})
	if _, err := f.apply(keeperOf(access.Nodes), unmatched); err != nil {
		t.Errorf("a label that no role matches: got %v", err)
	}
	for what, try := range escalations {
		if err := try(admin); err != nil {
			t.Errorf("%s by admin: got %v", what, err)
		}
		if what == "remove an administrator" {
			f.addUser("boss", "admin") // the map has no order: another case may need this user
		}
	}
}

func TestTokenSecretIsShownOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	got := f.mustApply(doc("token", "node-1", `{"kind":"node","ttl":"5m","labels":{"env":"dev"}}`))
	secret, err := authrpc.ParseToken(got.Secret)
	if err != nil || secret.Kind != identity.Node || !got.Created || got.Note == "" {
		t.Errorf("got %+v and %v, want a token for a node", got, err)
	}
	shown, err := json.Marshal([]any{f.getOne(access.Tokens, "node-1"), got.Resource})
	f.must(err)
	if parts := strings.Split(got.Secret, "."); strings.Contains(string(shown), parts[2]) {
		t.Error("the secret is shown again")
	}
	if !strings.Contains(string(shown), `"state":"ready"`) {
		t.Errorf("got %s, want it ready", shown)
	}
	_, err = f.apply(admin, doc("token", "node-1", `{"kind":"node"}`))
	f.wantFault("the same name", err, fault.Conflict)
}

func TestRemovingAUserRemovesTheFactor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addUser("alice")
	who := identity.UserKey{Connector: "corp", Subject: "sub-alice"}
	old, err := f.vault.Factors.Factors(t.Context(), who)
	f.must(err)
	f.must(f.vault.Factors.PutFactors(t.Context(), old, state.UserFactors{
		List: []state.Factor{{ID: "app", Kind: "totp", Secret: "JBSWY3DPEHPK3PXP"}},
	}))
	byName := f.getOne(access.Users, "alice")
	if !strings.Contains(string(byName.Status), `"second_factor":true`) {
		t.Errorf("got %s, want a second factor", byName.Status)
	}
	f.must(f.remove(admin, access.Users, "corp/sub-alice"))
	if has, err := f.st.HasFactor(t.Context(), who); err != nil || has {
		t.Errorf("got factor %v, %v after removal, want none", has, err)
	}
}

// Events are listed page by page. Not even admin can change or remove one.
func TestEventsCanOnlyBeRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.must(f.st.Events.AppendEvents(t.Context(),
		events.New(time.Now(), admin, events.AuthStart{Version: "test"}),
		events.New(time.Now(), admin, events.RecoveryUse{}),
	))
	first := authrpc.GetResourcesRequest{Kind: access.Events, Limit: 1}
	page, err := f.Get(t.Context(), authrpc.Caller{Identity: keeperOf(access.Events)}, first)
	f.must(err)
	if len(page.Resources) != 1 || page.Resources[0].Metadata.Name != "1" || page.Next != "1" {
		t.Errorf("got %+v, want event 1 and a next page", page)
	}
	page, err = f.Get(t.Context(), authrpc.Caller{Identity: admin}, eventsAfter(page.Next))
	f.must(err)
	if len(page.Resources) != 1 || page.Resources[0].Metadata.Name != "2" || page.Next != "" {
		t.Errorf("got %+v, want event 2 alone", page)
	}
	_, err = f.apply(admin, doc("event", "1", `{}`))
	f.wantFault("apply", err, fault.Denied)
	f.wantFault("rm", f.remove(admin, access.Events, "1"), fault.Denied)
}

func TestInvalidRequestsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, err := f.get(admin, "spells", "")
	f.wantFault("an unknown kind", err, fault.Invalid)
	_, err = f.Get(t.Context(), authrpc.Caller{Identity: admin}, eventsAfter("x"))
	f.wantFault("a page that begins nowhere", err, fault.Invalid)
}

// Someone who may apply roles cannot take that right from themselves, neither by a role nor by their own
// user document. Another role that gives it keeps the change allowed.
func TestAdministratorsCannotLockThemselvesOut(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const rootID = "corp/sub-root@example.com"
	f.putUser(state.User{
		Connector: "corp",
		Subject:   "sub-root@example.com",
		Mapped:    []string{"viewer"},
		Roles:     []string{"admin"},
	})
	both := statetest.User("root@example.com", "admin", "viewer")
	const denies = `{"deny":[{"resources":["*"]}]}`
	if _, err := f.apply(both, doc("role", "other", denies)); err != nil {
		t.Errorf("a role of others that denies: got %v", err)
	}
	wantRefused := func(what string, err error) {
		t.Helper()
		f.wantFault(what, err, fault.Denied)
		if !strings.Contains(fault.Remedy(err), "another administrator") {
			t.Errorf("%s: got remedy %q, want another administrator", what, fault.Remedy(err))
		}
	}
	_, err := f.apply(both, doc("role", "viewer", denies))
	wantRefused("a deny in another role of one's own", err)
	_, err = f.apply(both, doc("user", rootID, `{"roles":[]}`))
	wantRefused("taking the role admin from oneself", err)
	wantRefused("removing oneself", f.remove(both, access.Users, rootID))
	keeper := statetest.User("r", "roles-keeper")
	wantRefused("removing one's only role for roles", f.remove(keeper, access.Roles, "roles-keeper"))
	if err := f.remove(both, access.Roles, "roles-keeper"); err != nil {
		t.Errorf("removing it with another such role: got %v", err)
	}
}

func TestLastAdminConnectorCannotBeRemoved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	mapsAdmin := replaced(connectorSpec, `["dev"]`, `["admin"]`)
	for _, name := range []string{"corp", "spare"} {
		f.mustApply(doc("connector", name, mapsAdmin))
	}
	f.must(f.remove(admin, access.Connectors, "spare"))
	f.wantFault("removing the last one", f.remove(admin, access.Connectors, "corp"), fault.Denied)
	_, err := f.apply(admin, doc("connector", "corp", connectorSpec))
	f.wantFault("a last connector that maps no admin", err, fault.Denied)
	if _, err := f.apply(admin, doc("connector", "corp", mapsAdmin)); err != nil {
		t.Errorf("the unchanged connector: got %v", err)
	}
}

// Roles that are too large to publish would leave machines without rules, and auth unable to start.
func TestTotalSizeOfRolesIsBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	large := `{"allow":[{"nodes":{"env":["` + strings.Repeat("a", 200<<10) + `"]},"actions":["list"]}]}`
	var err error
	name := ""
	for i := 0; i < 20 && err == nil; i++ {
		name = fmt.Sprintf("large-%d", i)
		_, err = f.apply(admin, doc("role", name, large))
	}
	f.wantFault(name, err, fault.Exhausted)
	roles, err := f.st.RoleSet(t.Context())
	f.must(err)
	body, err := json.Marshal(rules.Roles{Roles: roles.Roles})
	f.must(err)
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	document := rules.Document{Kind: rules.RolesKind, Cluster: statetest.Cluster, Body: body}
	signed, err := rules.SignDocument(key, document)
	f.must(err)
	if size := len(signed.Payload); size > rules.MaxDocumentBytes*9/10 {
		t.Errorf("got a document of %d bytes, want it well under %d", size, rules.MaxDocumentBytes)
	}
	if _, err := f.apply(admin, doc("role", "large-0", `{}`)); err != nil {
		t.Errorf("a smaller one: got %v", err)
	}
}

// A malicious node cannot hide events by sending some that are too large for one answer.
func TestLargeEventsAreListedCompletely(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	large := events.New(time.Now(), admin, events.RecoveryUse{})
	large.Body = json.RawMessage(`{"x":"` + strings.Repeat("x", 60<<10) + `"}`)
	for range 200 {
		f.must(f.st.Events.AppendEvents(t.Context(), large))
	}
	f.must(f.st.Events.AppendEvents(t.Context(), events.New(time.Now(), admin, events.AuthStart{})))
	seen, last := 0, ""
	for after := ""; ; {
		page, err := f.Get(t.Context(), authrpc.Caller{Identity: admin}, eventsAfter(after))
		f.must(err)
		text, err := json.Marshal(page)
		f.must(err)
		if len(text) > authrpc.MaxAnswerBytes/2 {
			t.Fatalf("got a page of %d bytes, want it well under %d", len(text), authrpc.MaxAnswerBytes)
		}
		for _, r := range page.Resources {
			seen, last = seen+1, string(r.Spec)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if seen != 201 || !strings.Contains(last, string(events.AuthStarted)) {
		t.Errorf("got %d events, the last %.80s, want 201 and the start of auth", seen, last)
	}
}

// The log shows what administrators changed: the document before and after, and whether a secret was changed,
// but no secret.
func TestChangesAreRecordedWithBeforeAndAfter(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	connector := doc("connector", "partner", connectorSpec)
	changed := doc("connector", "partner", replaced(connectorSpec, "hunter2", "hunter3"))
	for _, d := range []authrpc.Resource{connector, changed} {
		if _, err := f.apply(admin, d); err != nil {
			t.Fatal(err)
		}
	}
	f.must(f.remove(admin, access.Connectors, "partner"))
	token, err := f.apply(admin, doc("token", "t1", `{"kind":"node"}`))
	f.must(err)

	log := statetest.Events(t, f.st)
	created := statetest.Body[events.ResourceChange](t, log[0])
	replaced := statetest.Body[events.ResourceChange](t, log[1])
	removed := statetest.Body[events.ResourceRemoval](t, log[2])
	if created.Before != nil || string(replaced.Before.Resource) != string(created.After.Resource) ||
		string(removed.Before.Resource) != string(replaced.After.Resource) {
		t.Errorf("got %s, then %s, then %s, want each to begin as the last one ended",
			created.After.Resource, replaced.Before.Resource, removed.Before.Resource)
	}
	if replaced.Before.SHA256 == replaced.After.SHA256 {
		t.Error("got the same digest for two secrets, want the change to show")
	}
	secretHash := statetest.Body[events.TokenCreation](t, log[3]).After
	if !strings.Contains(string(secretHash.Resource), `"hash":`) {
		t.Errorf("got %s, want the token's record with the hash of its secret", secretHash.Resource)
	}
	text, err := json.Marshal(log)
	f.must(err)
	for _, secret := range []string{"hunter2", "hunter3", token.Secret} {
		if strings.Contains(string(text), secret) {
			t.Errorf("got the secret %s in the log", secret)
		}
	}
}

// trimmedLog is a log whose first event has the number 5, because older ones were removed.
type trimmedLog struct{}

func (trimmedLog) Read(_ context.Context, after uint64, limit int) (out []state.NumberedEvent, _ error) {
	for number := max(after+1, 5); number < 8 && len(out) < limit; number++ {
		out = append(out, state.NumberedEvent{Number: number, JSON: json.RawMessage(`{}`)})
	}
	return out, nil
}

// The name of an event is its number for ever: that of a removed one never shows another event.
func TestARemovedEventIsNotFound(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	service := resources.New(resources.Config{
		Policies: f.st.Reader, Events: f.st.Events, Log: trimmedLog{}, Now: time.Now,
	})
	get := func(name string) (authrpc.GetResourcesResponse, error) {
		request := authrpc.GetResourcesRequest{Kind: access.Events, Name: name, Limit: 2}
		return service.Get(t.Context(), authrpc.Caller{Identity: admin}, request)
	}
	_, err := get("4")
	f.wantFault("a removed event", err, fault.NotFound)
	if got, err := get("5"); err != nil || got.Resources[0].Metadata.Name != "5" {
		t.Errorf("got %+v and %v, want event 5", got, err)
	}
	if got, err := get(""); err != nil || got.Resources[0].Metadata.Name != "5" || got.Next != "6" {
		t.Errorf("got %+v and %v, want the first page to begin with what is left", got, err)
	}
}
