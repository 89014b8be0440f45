package resources_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

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

// fixture is a desk with people around it: admin may do everything, and one person for each kind may do
// everything with that kind.
type fixture struct {
	*testing.T
	*resources.Service
	st    *state.State
	vault *state.Vault
}

var admin = statetest.User("root@example.com", "admin")

// keeperOf is who may do everything with one kind of document, and shell as ubuntu where env is dev.
func keeperOf(kind access.Resource) identity.Identity {
	return statetest.User(string(kind)+"-keeper", string(kind)+"-keeper", "dev")
}

func newFixture(t *testing.T) *fixture {
	roles := []access.Role{resources.BuiltInAdmin(), {Name: "dev", Allow: []access.Grant{
		{
			Nodes:   map[string]access.Strings{"env": {"dev"}},
			Logins:  access.Strings{"ubuntu"},
			Actions: access.Strings{"shell"},
		},
	}}}
	for _, k := range access.Resources {
		roles = append(roles, access.Role{Name: string(k) + "-keeper", Allow: []access.Grant{
			{Resources: access.Strings{string(k)}, Actions: access.Strings{"get", "apply", "rm"}},
		}})
	}
	st, vault := statetest.NewCluster(t, roles...)
	door := join.New(join.Config{State: st, Cluster: statetest.Cluster, Now: time.Now})
	return &fixture{
		t,
		resources.New(
			resources.Config{State: st, Vault: vault, Join: door, Log: audit.New(st), Now: time.Now},
		),
		st,
		vault,
	}
}

func (d *fixture) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func doc(kind, name, spec string) authrpc.Resource {
	return authrpc.Resource{
		Kind:     kind,
		Version:  "v1",
		Metadata: authrpc.Metadata{Name: name},
		Spec:     json.RawMessage(spec),
	}
}

func (d *fixture) apply(who identity.Identity, r authrpc.Resource) (authrpc.ApplyResourceResponse, error) {
	return d.Apply(d.Context(), who, r)
}

func (d *fixture) getOne(kind access.Resource, name string) authrpc.Resource {
	d.Helper()
	got, err := d.Get(d.Context(), admin, authrpc.GetResourcesRequest{Kind: kind, Name: name})
	d.must(err)
	if len(got.Resources) != 1 {
		d.Fatalf("got %d resources, want 1", len(got.Resources))
	}
	return got.Resources[0]
}

// countEvents tells how many events of a code there are.
func (d *fixture) countEvents(code events.Code) (n int) {
	d.Helper()
	all, err := d.st.ReadEvents(d.Context(), 1, 1000)
	d.must(err)
	for _, e := range all {
		if e.Event.Code == code {
			n++
		}
	}
	return n
}

const (
	roleSpec      = `{"allow":[{"nodes":{"env":"dev"},"logins":["ubuntu"],"actions":["shell"]}],"options":{"cert_ttl":"4h"}}`
	limitedSpec   = `{"options":{"idle_timeout":"10m","max_session":"8h","max_sessions":3,"end_with_certificate":true}}`
	connectorSpec = `{"type":"oidc","issuer":"https://login.example.org","client_id":"threshold","client_secret":"hunter2","roles":[{"claim":"groups","value":"ops","roles":["dev"]}]}`
)

func TestEveryKindIsReadAndChangedOnlyAsRolesAllow(t *testing.T) {
	d := newFixture(t)
	d.addUser("alice")
	d.addNode("web", "dev")
	for kind, r := range map[access.Resource]authrpc.Resource{
		access.Roles: doc("role", "ops", roleSpec), access.Connectors: doc("connector", "corp", connectorSpec),
		access.Users: doc("user", "corp/sub-alice", `{"roles":[]}`), access.Tokens: doc("token", "t1", `{"kind":"node","ttl":"5m"}`),
		access.Machines: {Kind: "node", Version: "v1", Metadata: authrpc.Metadata{Name: "web", Labels: map[string]string{"env": "dev"}}, Spec: json.RawMessage(`{}`)},
	} {
		for _, other := range access.Resources {
			if other == kind {
				continue
			}
			before := d.countEvents(events.ResourceRefused)
			who := keeperOf(other)
			_, err1 := d.Get(t.Context(), who, authrpc.GetResourcesRequest{Kind: kind})
			_, err2 := d.apply(who, r)
			err3 := d.Remove(
				t.Context(),
				who,
				authrpc.RemoveResourceRequest{Kind: kind, Name: r.Metadata.Name},
			)
			for i, err := range []error{err1, err2, err3} {
				if !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
					t.Errorf(
						"%s, action %d by the keeper of %s: got %v, want denied with a remedy",
						kind,
						i,
						other,
						err,
					)
				}
			}
			if got := d.countEvents(events.ResourceRefused) - before; got != 3 {
				t.Errorf("%s by the keeper of %s: got %d refusals in the audit log, want 3", kind, other, got)
			}
		}
		applied, removed := d.countEvents(
			events.ResourceApplied,
		)+d.countEvents(
			events.TokenCreated,
		), d.countEvents(
			events.ResourceRemoved,
		)
		if _, err := d.apply(admin, r); err != nil {
			t.Errorf("apply %s by admin: got %v", kind, err)
		}
		if got := d.getOne(kind, r.Metadata.Name); got.Kind != r.Kind || got.Metadata.Revision == 0 {
			t.Errorf("get %s: got %+v, want the document with its revision", kind, got)
		}
		if err := d.Remove(t.Context(), admin, authrpc.RemoveResourceRequest{Kind: kind, Name: r.Metadata.Name}); err != nil {
			t.Errorf("rm %s by admin: got %v", kind, err)
		}
		if _, err := d.Get(t.Context(), admin, authrpc.GetResourcesRequest{Kind: kind, Name: r.Metadata.Name}); !fault.Is(
			err,
			fault.NotFound,
		) ||
			fault.Remedy(err) == "" {
			t.Errorf("get %s after rm: got %v, want not found with a remedy", kind, err)
		}
		if a, r := d.countEvents(events.ResourceApplied)+d.countEvents(events.TokenCreated)-applied, d.countEvents(events.ResourceRemoved)-removed; a != 1 ||
			r != 1 {
			t.Errorf("%s: got %d applied and %d removed events, want one each", kind, a, r)
		}
	}
}

func TestRoleIsReadAsApplied(t *testing.T) {
	d := newFixture(t)
	got, err := d.apply(admin, doc("role", "ops", roleSpec))
	d.must(err)
	if !got.Created || got.Resource.Metadata.Name != "ops" {
		t.Errorf("got %+v, want ops, created", got)
	}
	shown := d.getOne(access.Roles, "ops")
	again, err := d.apply(admin, shown) // what get shows, apply takes
	d.must(err)
	if again.Created {
		t.Error("got created for a role that was there")
	}
	policy, err := d.st.Policy(t.Context())
	d.must(err)
	if r := policy["ops"]; len(r.Allow) != 1 || time.Duration(r.Options.CertTTL) != 4*time.Hour {
		t.Errorf("got %+v in the policy, want the role", r)
	}
}

func TestSessionLimitsAreReadAsApplied(t *testing.T) {
	d := newFixture(t)
	_, err := d.apply(admin, doc("role", "ops", limitedSpec))
	d.must(err)
	shown := d.getOne(access.Roles, "ops")
	if string(shown.Spec) != limitedSpec {
		t.Errorf("got %s, want %s", shown.Spec, limitedSpec)
	}
	_, err = d.apply(admin, shown) // what get shows, apply takes
	d.must(err)
	policy, err := d.st.Policy(t.Context())
	d.must(err)
	want := access.Options{
		IdleTimeout:        access.Duration(10 * time.Minute),
		MaxSession:         access.Duration(8 * time.Hour),
		MaxSessions:        3,
		EndWithCertificate: true,
	}
	if got := policy["ops"].Options; got != want {
		t.Errorf("got %+v in the policy, want %+v", got, want)
	}
}

func TestStaleRevisionsAreRefused(t *testing.T) {
	d := newFixture(t)
	_, err := d.apply(admin, doc("role", "ops", roleSpec))
	d.must(err)
	shown := d.getOne(access.Roles, "ops")
	_, err = d.apply(admin, shown)
	d.must(err)
	if _, err := d.apply(admin, shown); !fault.Is(err, fault.Conflict) || fault.Remedy(err) == "" {
		t.Errorf("got %v for the revision before, want a conflict with a remedy", err)
	}
	missing := doc("role", "new", roleSpec)
	missing.Metadata.Revision = 7
	if _, err := d.apply(admin, missing); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v for a revision of nothing, want a conflict", err)
	}
}

func TestSpecsAreDecodedStrictly(t *testing.T) {
	d := newFixture(t)
	d.addUser("alice")
	for name, tt := range map[string]struct {
		r    authrpc.Resource
		says []string
	}{
		"unknown keys":       {doc("role", "x", `{"alow":[],"options":{"certttl":"8h"}}`), []string{"alow", "did you mean", "certttl"}},
		"every fault":        {doc("role", "x", `{"allow":[{"nodes":{"env":"a"},"actions":["fly"]}],"options":{"cert_ttl":"99h"}}`), []string{"fly", "cert_ttl"}},
		"limits":             {doc("role", "x", `{"options":{"idle_timeout":"25h","max_session":"1ms","max_sessions":1001}}`), []string{"options.idle_timeout", "options.max_session", "options.max_sessions"}},
		"no session at all":  {doc("role", "x", `{"options":{"max_sessions":0}}`), []string{"options.max_sessions", "0 is no limit"}},
		"a limit of no unit": {doc("role", "x", `{"options":{"idle_timeout":600}}`), []string{"options.idle_timeout"}},
		"a half limit":       {doc("role", "x", `{"options":{"end_with_certificate":"sometimes"}}`), []string{"options.end_with_certificate"}},
		"a name in a spec":   {doc("role", "x", `{"name":"admin"}`), []string{"name"}},
		"a bad name":         {doc("role", "a b", roleSpec), []string{"metadata.name"}},
		"a bad connector":    {doc("connector", "x", `{"type":"oidc","issuer":"http://evil.example.org","client_id":"x"}`), []string{"https"}},
		"a long-lived token": {doc("token", "x", `{"kind":"node","ttl":"2h"}`), []string{"ttl"}},
		"a token for auth":   {doc("token", "x", `{"kind":"auth"}`), []string{"kind"}},
		"a user's name":      {doc("user", "corp/sub-alice", `{"name":"root"}`), []string{"name"}},
		"no JSON":            {doc("role", "x", `{`), []string{"spec"}},
		"another version":    {authrpc.Resource{Kind: "role", Version: "v2", Metadata: authrpc.Metadata{Name: "x"}}, []string{"v2"}},
		"an unknown kind":    {doc("spell", "x", `{}`), []string{"spell"}},
	} {
		_, err := d.apply(admin, tt.r)
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want invalid with a remedy", name, err)
			continue
		}
		for _, s := range tt.says {
			if !strings.Contains(fault.Message(err), s) {
				t.Errorf("%s: got %q, want it to say %q", name, fault.Message(err), s)
			}
		}
	}
}

func TestTheClientSecretIsNeverShown(t *testing.T) {
	d := newFixture(t)
	got, err := d.apply(admin, doc("connector", "corp", connectorSpec))
	d.must(err)
	shown := d.getOne(access.Connectors, "corp")
	list, err := d.Get(t.Context(), admin, authrpc.GetResourcesRequest{Kind: access.Connectors})
	d.must(err)
	all, err := json.Marshal([]any{got, shown, list})
	d.must(err)
	if strings.Contains(string(all), "hunter2") || !strings.Contains(string(shown.Spec), resources.Sealed) {
		t.Errorf("got %s, want %s in place of the secret", all, resources.Sealed)
	}
	_, err = d.apply(admin, shown)
	d.must(err)
	kept, err := d.vault.Connector(t.Context(), "corp")
	d.must(err)
	if kept.Secret != "hunter2" {
		t.Errorf("got secret %q after applying what get showed, want it kept", kept.Secret)
	}
	// The kept secret goes to no other provider.
	for _, change := range []string{"login.example.org", "threshold"} {
		elsewhere := shown
		elsewhere.Metadata.Revision = 0
		elsewhere.Spec = json.RawMessage(strings.Replace(string(shown.Spec), change, "evil.example.net", 1))
		if _, err := d.apply(admin, elsewhere); !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("another %s with the kept secret: got %v, want invalid", change, err)
		}
	}
	if _, err := d.apply(admin, doc("connector", "new", strings.Replace(connectorSpec, "hunter2", resources.Sealed, 1))); !fault.Is(
		err,
		fault.Invalid,
	) {
		t.Errorf("a new connector with %s: got %v, want invalid", resources.Sealed, err)
	}
}

// Whoever points a connector elsewhere would hand its users' roles to strangers; a rename of everything else
// is free.
func TestConnectorKeepsItsIssuer(t *testing.T) {
	d := newFixture(t)
	elsewhere := strings.Replace(connectorSpec, "login.example.org", "other.example.org", 1)
	for _, spec := range []string{connectorSpec, strings.Replace(connectorSpec, `"threshold"`, `"another-client"`, 1)} {
		_, err := d.apply(admin, doc("connector", "corp", spec))
		d.must(err)
	}
	refused := func(when string) {
		t.Helper()
		if _, err := d.apply(admin, doc("connector", "corp", elsewhere)); !fault.Is(err, fault.Conflict) ||
			!strings.Contains(fault.Remedy(err), "another name") {
			t.Errorf(
				"%s: got %v (%s), want a conflict whose remedy is another name",
				when,
				err,
				fault.Remedy(err),
			)
		}
	}
	refused("over it")
	d.must(d.Remove(t.Context(), admin, authrpc.RemoveResourceRequest{Kind: access.Connectors, Name: "corp"}))
	refused("after its removal")
	if _, err := d.apply(admin, doc("connector", "other", elsewhere)); err != nil {
		t.Errorf("got %v for another name, want none", err)
	}
}

func TestAdminRoleCannotBeRemovedOrWeakened(t *testing.T) {
	d := newFixture(t)
	if err := d.Remove(t.Context(), admin, authrpc.RemoveResourceRequest{Kind: access.Roles, Name: "admin"}); !fault.Is(
		err,
		fault.Denied,
	) ||
		fault.Remedy(err) == "" {
		t.Errorf("rm: got %v, want denied", err)
	}
	for name, spec := range map[string]string{
		"emptied":    `{}`,
		"read only":  `{"allow":[{"resources":"*","actions":["get"]}]}`,
		"no roles":   `{"allow":[{"resources":["users","nodes"],"actions":["get","apply","rm"]}]}`,
		"and denied": `{"allow":[{"resources":"*","actions":["get","apply","rm"]}],"deny":[{"resources":"roles"}]}`,
	} {
		if _, err := d.apply(admin, doc("role", "admin", spec)); !fault.Is(err, fault.Denied) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want denied with a remedy", name, err)
		}
	}
	more := `{"allow":[{"resources":"*","actions":["get","apply","rm"]},{"nodes":{"*":"*"},"logins":["root"],"actions":["shell"]}]}`
	if _, err := d.apply(admin, doc("role", "admin", more)); err != nil {
		t.Errorf("more than before: got %v", err)
	}
}

// addUser puts someone on record, as a login does.
func (d *fixture) addUser(name string, roles ...string) {
	d.Helper()
	u := state.User{Connector: "corp", Subject: "sub-" + name, Name: name, Roles: roles, Created: time.Now()}
	d.must(d.st.Users.PutUser(d.Context(), state.Stored[state.User]{}, u))
}

// addNode puts a node on record, as a join does.
func (d *fixture) addNode(name, env string) state.Machine {
	d.Helper()
	_, kept, err := join.New(join.Config{State: d.st, Cluster: statetest.Cluster, Now: time.Now}).
		Create(d.Context(), join.TokenRequest{Kind: identity.Node})
	d.must(err)
	m := state.Machine{
		ID:      identity.MachineID(state.NewID()),
		Kind:    identity.Node,
		Name:    name,
		Labels:  identity.Labels{"env": env},
		Created: time.Now(),
	}
	d.must(d.st.Machines.AddMachine(d.Context(), m, kept))
	return m
}

func node(name string, labels map[string]string) authrpc.Resource {
	return authrpc.Resource{
		Kind:     "node",
		Version:  "v1",
		Metadata: authrpc.Metadata{Name: name, Labels: labels},
	}
}

// Who may change one kind of document reaches nothing that another kind guards.
func TestNoKindEscalatesToAnother(t *testing.T) {
	d := newFixture(t)
	d.addUser("alice")
	d.addUser("boss", "admin")
	d.must(
		d.st.Users.PutUser(
			t.Context(),
			state.Stored[state.User]{},
			state.User{Connector: "corp", Subject: "sub-chief", Name: "chief", Mapped: []string{"admin"}},
		),
	)
	d.addNode("prod-db", "prod")
	gain := map[string]func(who identity.Identity) error{
		"give oneself admin": func(who identity.Identity) error {
			_, err := d.apply(who, doc("user", "corp/sub-alice", `{"roles":["admin"]}`))
			return err
		},
		"take admin from another": func(who identity.Identity) error {
			_, err := d.apply(who, doc("user", "corp/sub-boss", `{"roles":[]}`))
			return err
		},
		"remove an administrator by the connector's word, with the second factor": func(who identity.Identity) error {
			return d.Remove(
				t.Context(),
				who,
				authrpc.RemoveResourceRequest{Kind: access.Users, Name: "corp/sub-chief"},
			)
		},
		"remove an administrator": func(who identity.Identity) error {
			return d.Remove(
				t.Context(),
				who,
				authrpc.RemoveResourceRequest{Kind: access.Users, Name: "corp/sub-boss"},
			)
		},
		"map everyone to admin": func(who identity.Identity) error {
			_, err := d.apply(
				who,
				doc("connector", "mine", strings.Replace(connectorSpec, `"dev"`, `"admin"`, 1)),
			)
			return err
		},
		"vouch with a provider of one's own": func(who identity.Identity) error {
			_, err := d.apply(
				who,
				doc(
					"connector",
					"corp",
					strings.Replace(connectorSpec, "login.example.org", "mine.example.org", 1),
				),
			)
			return err
		},
		"relabel a node into one's reach": func(who identity.Identity) error {
			_, err := d.apply(who, node("prod-db", map[string]string{"env": "dev"}))
			return err
		},
		"write a role": func(who identity.Identity) error {
			_, err := d.apply(who, doc("role", "mine", roleSpec))
			return err
		},
	}
	for _, kind := range []access.Resource{access.Users, access.Connectors, access.Machines, access.Tokens, access.Events} {
		for what, try := range gain {
			if err := try(keeperOf(kind)); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
				t.Errorf("the keeper of %s may %s: got %v, want denied with a remedy", kind, what, err)
			}
		}
	}
	// What gives them nothing they lack is theirs to do.
	if _, err := d.apply(keeperOf(access.Users), doc("user", "corp/sub-alice", `{"roles":["dev"]}`)); err != nil {
		t.Errorf("giving a role that one has: got %v", err)
	}
	if _, err := d.apply(keeperOf(access.Machines), node("prod-db", map[string]string{"env": "prod", "rack": "7"})); err != nil {
		t.Errorf("a label that no rule looks at: got %v", err)
	}
	for what, try := range gain {
		if err := try(admin); err != nil {
			t.Errorf("admin may not %s: got %v", what, err)
		}
		if what == "remove an administrator" {
			d.addUser("boss", "admin") // for who comes next
		}
	}
}

func TestTokenSecretIsShownOnce(t *testing.T) {
	d := newFixture(t)
	got, err := d.apply(admin, doc("token", "node-1", `{"kind":"node","ttl":"5m","labels":{"env":"dev"}}`))
	d.must(err)
	secret, err := authrpc.ParseToken(got.Secret)
	if err != nil || secret.Kind != identity.Node || !got.Created || got.Note == "" {
		t.Errorf("got %+v and %v, want a token for a node", got, err)
	}
	shown, err := json.Marshal([]any{d.getOne(access.Tokens, "node-1"), got.Resource})
	d.must(err)
	if parts := strings.Split(got.Secret, "."); strings.Contains(string(shown), parts[2]) {
		t.Error("the secret is shown again")
	}
	if !strings.Contains(string(shown), `"state":"ready"`) {
		t.Errorf("got %s, want it ready", shown)
	}
	if _, err := d.apply(admin, doc("token", "node-1", `{"kind":"node"}`)); !fault.Is(err, fault.Conflict) ||
		fault.Remedy(err) == "" {
		t.Errorf("the same name: got %v, want a conflict with a remedy", err)
	}
}

func TestRemovingAUserRemovesTheFactor(t *testing.T) {
	d := newFixture(t)
	d.addUser("alice")
	who := identity.UserKey{Connector: "corp", Subject: "sub-alice"}
	old, err := d.vault.Factor(t.Context(), who)
	d.must(err)
	d.must(d.vault.PutFactor(t.Context(), old, state.Factor{Secret: "JBSWY3DPEHPK3PXP"}))
	if !strings.Contains(
		string(d.getOne(access.Users, "alice").Status),
		`"second_factor":true`,
	) { // found by name, too
		t.Errorf("got %s, want a second factor", d.getOne(access.Users, "alice").Status)
	}
	d.must(
		d.Remove(
			t.Context(),
			admin,
			authrpc.RemoveResourceRequest{Kind: access.Users, Name: "corp/sub-alice"},
		),
	)
	if has, err := d.st.HasFactor(t.Context(), who); err != nil || has {
		t.Errorf("got factor %v, %v after removal, want none", has, err)
	}
}

func TestEventsCanOnlyBeRead(t *testing.T) {
	d := newFixture(t)
	d.must(
		d.st.Events.AppendEvents(
			t.Context(),
			events.Event{Code: events.AuthStarted, Time: time.Now()},
			events.Event{Code: events.ClusterCreated, Time: time.Now()},
		),
	)
	page, err := d.Get(
		t.Context(),
		keeperOf(access.Events),
		authrpc.GetResourcesRequest{Kind: access.Events, Limit: 1},
	)
	d.must(err)
	if len(page.Resources) != 1 || page.Resources[0].Metadata.Name != "1" || page.Next != "1" {
		t.Errorf("got %+v, want event 1 and a next page", page)
	}
	page, err = d.Get(t.Context(), admin, authrpc.GetResourcesRequest{Kind: access.Events, After: page.Next})
	d.must(err)
	if len(page.Resources) != 1 || page.Resources[0].Metadata.Name != "2" || page.Next != "" {
		t.Errorf("got %+v, want event 2 alone", page)
	}
	_, err1 := d.apply(admin, doc("event", "1", `{}`))
	err2 := d.Remove(t.Context(), admin, authrpc.RemoveResourceRequest{Kind: access.Events, Name: "1"})
	for _, err := range []error{err1, err2} {
		if !fault.Is(err, fault.Denied) {
			t.Errorf("got %v, want denied", err)
		}
	}
}

func TestInvalidRequestsAreRefused(t *testing.T) {
	d := newFixture(t)
	if _, err := d.Get(t.Context(), admin, authrpc.GetResourcesRequest{Kind: "spells"}); !fault.Is(
		err,
		fault.Invalid,
	) ||
		fault.Remedy(err) == "" {
		t.Errorf("got %v, want invalid with a remedy", err)
	}
	if _, err := d.Get(t.Context(), admin, authrpc.GetResourcesRequest{Kind: access.Events, After: "x"}); !fault.Is(
		err,
		fault.Invalid,
	) {
		t.Errorf("got %v, want invalid", err)
	}
}

func TestAdministratorsCannotLockThemselvesOut(t *testing.T) {
	d := newFixture(t)
	rootID := "corp/sub-root@example.com"
	d.must(
		d.st.Users.PutUser(
			t.Context(),
			state.Stored[state.User]{},
			state.User{
				Connector: "corp",
				Subject:   "sub-root@example.com",
				Mapped:    []string{"viewer"},
				Roles:     []string{"admin"},
			},
		),
	)
	both := statetest.User("root@example.com", "admin", "viewer")
	const denies = `{"deny":[{"resources":["*"]}]}`
	if _, err := d.apply(both, doc("role", "other", denies)); err != nil {
		t.Errorf("a role of others that denies: got %v", err)
	}
	for what, try := range map[string]func() error{
		"deny through another of one's roles": func() error { _, err := d.apply(both, doc("role", "viewer", denies)); return err },
		"take the role from oneself": func() error {
			_, err := d.apply(both, doc("user", rootID, `{"roles":[]}`))
			return err
		},
		"remove oneself": func() error {
			return d.Remove(t.Context(), both, authrpc.RemoveResourceRequest{Kind: access.Users, Name: rootID})
		},
	} {
		if err := try(); !fault.Is(err, fault.Denied) ||
			!strings.Contains(fault.Remedy(err), "another administrator") {
			t.Errorf("%s: got %v, want denied, and who may", what, err)
		}
	}
	keeper := statetest.User("r", "roles-keeper")
	if err := d.Remove(t.Context(), keeper, authrpc.RemoveResourceRequest{Kind: access.Roles, Name: "roles-keeper"}); !fault.Is(
		err,
		fault.Denied,
	) {
		t.Errorf("remove the role one mends roles by: got %v, want denied", err)
	}
	if err := d.Remove(t.Context(), both, authrpc.RemoveResourceRequest{Kind: access.Roles, Name: "roles-keeper"}); err != nil {
		t.Errorf("by one who has another: got %v", err)
	}
}

func TestLastAdminConnectorCannotBeRemoved(t *testing.T) {
	d := newFixture(t)
	admins := strings.Replace(connectorSpec, `["dev"]`, `["admin"]`, 1)
	for _, name := range []string{"corp", "spare"} {
		_, err := d.apply(admin, doc("connector", name, admins))
		d.must(err)
	}
	rm := func(name string) error {
		return d.Remove(
			t.Context(),
			admin,
			authrpc.RemoveResourceRequest{Kind: access.Connectors, Name: name},
		)
	}
	d.must(rm("spare"))
	if err := rm("corp"); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
		t.Errorf("remove the last: got %v, want denied with a remedy", err)
	}
	if _, err := d.apply(admin, doc("connector", "corp", connectorSpec)); !fault.Is(err, fault.Denied) {
		t.Errorf("no rule for administrators any more: got %v, want denied", err)
	}
	if _, err := d.apply(admin, doc("connector", "corp", admins)); err != nil {
		t.Errorf("as it was: got %v", err)
	}
}

// Rules that are too large to publish would leave machines without any, and auth without a start.
func TestTotalSizeOfRolesIsBounded(t *testing.T) {
	d := newFixture(t)
	large := `{"allow":[{"nodes":{"env":["` + strings.Repeat("a", 200<<10) + `"]},"actions":["list"]}]}`
	var err error
	name := ""
	for i := 0; i < 20 && err == nil; i++ {
		name = fmt.Sprintf("large-%d", i)
		_, err = d.apply(admin, doc("role", name, large))
	}
	if !fault.Is(err, fault.Exhausted) || fault.Remedy(err) == "" {
		t.Fatalf("got %v after %s, want exhausted with a remedy", err, name)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	book, err := d.st.RoleSet(t.Context())
	d.must(err)
	body, err := json.Marshal(rules.Roles{Roles: book.Roles})
	d.must(err)
	s, err := rules.SignDocument(
		key,
		rules.Document{Kind: rules.RolesKind, Cluster: statetest.Cluster, Body: body},
	)
	d.must(err)
	set, err := rules.Set{Roles: s}.Encode()
	d.must(err)
	if len(set) > rules.MaxSetBytes*9/10 {
		t.Errorf("got a set of %d bytes, want room for more than it under %d", len(set), rules.MaxSetBytes)
	}
	if _, err := d.apply(admin, doc("role", "large-0", `{}`)); err != nil {
		t.Errorf("a smaller one: got %v", err)
	}
}

// A node that went bad can not hide what happened behind events that are too large to be told in one answer.
func TestLargeEventsAreListedCompletely(t *testing.T) {
	d := newFixture(t)
	large := events.Event{Code: events.SessionEnded, Time: time.Now(), Fields: map[string]string{}}
	for i := range events.MaxFields {
		large.Fields[fmt.Sprintf("field-%d", i)] = strings.Repeat("\x00", 300)
	}
	for range 200 {
		d.must(d.st.Events.AppendEvents(t.Context(), large))
	}
	d.must(d.st.Events.AppendEvents(t.Context(), events.Event{Code: events.AuthStarted, Time: time.Now()}))
	seen, last := 0, ""
	for after := ""; ; {
		page, err := d.Get(t.Context(), admin, authrpc.GetResourcesRequest{Kind: access.Events, After: after})
		d.must(err)
		if text, err := json.Marshal(page); err != nil || len(text) > authrpc.MaxAnswerBytes/2 {
			t.Fatalf(
				"got a page of %d bytes, %v, want it well under %d",
				len(text),
				err,
				authrpc.MaxAnswerBytes,
			)
		}
		for _, r := range page.Resources {
			seen, last = seen+1, string(r.Spec)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if seen != 201 || !strings.Contains(last, string(events.AuthStarted)) {
		t.Errorf("got %d events, the last %.80s, want 201 and auth's start", seen, last)
	}
}
