package access_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

var update = flag.Bool("update", false, "write the golden files, and the table in docs/cli.md, anew")

// actionTable is the registry of actions as a table for people.
func actionTable() string {
	var b strings.Builder
	b.WriteString("| action | on | extension of the certificate | lets a user |\n|---|---|---|---|\n")
	for _, a := range access.Actions() {
		extension := "–"
		if a.Extension != "" {
			extension = "`" + a.Extension + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", a.Action, a.On, extension, a.Doc)
	}
	return b.String()
}

func TestTheManualHasEveryAction(t *testing.T) {
	t.Parallel()
	const path = "../../docs/cli.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, want := string(b), actionTable()
	start := strings.Index(doc, "| action | on |")
	if start < 0 {
		t.Fatal("docs/cli.md has no table of actions")
	}
	end := start + strings.Index(doc[start:], "\n\n") + 1
	if *update {
		if err := os.WriteFile(path, []byte(doc[:start]+want+doc[end:]), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got := doc[start:end]; got != want {
		t.Errorf("docs/cli.md has other actions (update it with -update)\ngot:\n%s\nwant:\n%s", got, want)
	}
}

// A caller that changes its list must not change what others get.
func TestTheRegistryIsACopy(t *testing.T) {
	t.Parallel()
	list, onNodes := access.Actions(), access.ActionsOn(access.OnNodes)
	if list[0].Action != access.List || !slices.Contains(onNodes, access.ForwardAgent) {
		t.Errorf("got %v, want every action on nodes, list first", list)
	}
	list[0].Action = access.Shell
	if got := access.Actions()[0].Action; got != access.List {
		t.Errorf("got %s first after a caller changed its list, want list", got)
	}
	asLogin := access.LoginActions()
	if slices.Contains(asLogin, access.List) || slices.Contains(asLogin, access.Get) {
		t.Errorf("got %v, want no action that needs no login", asLogin)
	}
}

// Every action of the registry can be granted on what it is on, and on nothing else.
func TestEveryActionIsGrantedAndChecked(t *testing.T) {
	t.Parallel()
	for _, info := range access.Actions() {
		onNode := access.Grant{
			Nodes:   nodes("*", "*"),
			Logins:  access.Strings{"alice"},
			Actions: access.Strings{string(info.Action)},
		}
		onDocument := access.Grant{
			Resources: access.Strings{"*"}, Actions: access.Strings{string(info.Action)},
		}
		isOnNodes := info.On == access.OnNodes
		if faults := faultsOf(allow(onNode)); (len(faults) == 0) != isOnNodes {
			t.Errorf("%s on nodes: got %v", info.Action, faults)
		}
		if faults := faultsOf(allow(onDocument)); (len(faults) == 0) == isOnNodes {
			t.Errorf("%s on resources: got %v", info.Action, faults)
		}
		login := identity.Login("alice")
		if !info.AsLogin {
			login = ""
		}
		r := request(user("r"), prod, login, info.Action)
		if isOnNodes && !policy(allow(onNode)).Decide(r).Allow {
			t.Errorf("%s: got it denied, want it allowed by its grant", info.Action)
		}
		extensions := access.Extensions(policy(allow(onNode)), user("r"))
		if info.Extension != "" && !slices.Contains(extensions, info.Extension) || len(extensions) > 1 {
			t.Errorf("%s: got the extensions %q, want %q", info.Action, extensions, info.Extension)
		}
		if got := access.Extensions(policy(allow(onNode)), user("other")); got != nil {
			t.Errorf("%s: got %q for a user without the role, want none", info.Action, got)
		}
	}
}

// A grant on a node opens no other service of the node, and nothing is reached without a target.
func TestAGrantOnNodesIsNoneOnTheirServices(t *testing.T) {
	t.Parallel()
	p := policy(allow(shellAs("alice")))
	r := request(user("r"), prod, "alice", access.Shell)
	if !p.Decide(r).Allow {
		t.Fatal("got the node denied, want it allowed")
	}
	r.Target = access.Target{Kind: access.ServiceTarget, Node: prod, Service: "postgres"}
	d := p.Decide(r)
	if d.Allow || !strings.Contains(d.Reason, "postgres on web-1") {
		t.Errorf("got %+v, want a service denied by its name", d)
	}
	for _, none := range []access.Target{{}, {Node: prod}, {Kind: "later", Node: prod}} {
		r.Target = none
		if d := p.Decide(r); d.Allow {
			t.Errorf("%+v: got it allowed, want it denied", none)
		}
	}
}
