package repocheck_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// components are the top-level folders that hold Go packages, with what each may import beside itself.
// "internal" stands for every package in it. cmd may also import the packages inside the components that it
// names, because a main function connects them.
var components = map[string][]string{
	"cmd":         {"server", "node", "tsh", "internal"},
	"server":      {"auth", "proxy", "node", "internal"},
	"auth":        {"internal", "ca", "raftstore"},
	"proxy":       {"internal"},
	"node":        {"internal"},
	"tsh":         {"internal"},
	"ca":          {"internal/identity", "internal/fault", "internal/wire", "internal/durable"},
	"raftstore":   {"internal/fault", "internal/wire", "internal/durable"},
	"integration": {"auth", "proxy", "node", "tsh", "internal"},
}

// testImports is what the tests of a component may import beyond components: real authorities and a real
// store, where a double would prove less.
var testImports = map[string][]string{
	"auth": {"ca", "raftstore"},
	"cmd":  {"node"},
}

// internalImports are the packages under internal, with what each may import of the module: fault ← wire ←
// identity ← access ← rules ← {audit dial} ← authrpc. tunnel is beside access; config is a leaf that any may
// read files with.
var internalImports = map[string][]string{
	"ascii":       {},
	"fault":       {},
	"wire":        {"ascii", "fault"},
	"identity":    {"ascii", "fault", "wire"},
	"config":      {"ascii", "fault"},
	"testnet":     {"connqueue"},
	"formbrowser": {},
	"lifecycle":   {"fault"},
	"backoff":     {},
	"connqueue":   {},
	"prefixconn":  {},
	"limitedlog":  {},
	"rulesfile":   {"backoff", "wire", "durable", "fault", "identity", "config", "access", "rules"},
	"sshprofile":  {"fault", "wire", "identity"},
	"durable":     {},
	"daemon":      {"fault"},
	"limit":       {},
	"keepalive":   {},
	"coalesce":    {},
	"repocheck":   {},
	"access":      {"fault", "wire", "identity", "config"},
	"tunnel":      {"ascii", "wire", "fault", "coalesce", "identity"},
	"rules":       {"wire", "fault", "identity", "config", "access"},
	"open":        {"wire", "fault", "identity", "config", "access", "rules"},
	"audit":       {"wire", "fault", "identity", "config", "access", "rules"},
	"dial":        {"wire", "fault", "identity", "config", "access", "rules"},
	"egress":      {"fault", "wire", "coalesce", "identity", "keepalive", "dial", "prefixconn"},
	"authrpc": {
		"ascii", "keepalive", "limitedlog", "prefixconn", "fault", "wire", "identity", "config", "access",
		"rules", "tunnel", "audit", "dial",
	},
	"member": {"fault", "wire", "identity", "rules", "authrpc", "backoff", "durable"},
	"clustertest": {
		"fault", "wire", "identity", "access", "rules", "audit", "authrpc", "connqueue", "testnet",
	},
}

// layers give each package inside a component its height: imports go from a lower number to a higher one,
// never back, never sideways.
var layers = map[string]map[string]int{
	"auth": {
		"port": 0, "api": 0, "bootstrap": 0, "owncert": 0, "authorities": 3, "issue": 1, "resources": 1, "login": 2, "join": 2,
		"totp": 2, "oidc": 3, "factor": 3, "rules": 4, "attachments": 4, "audit": 4, "state": 5,
	},
	"proxy": {"web": 0, "jump": 1, "tunnels": 2, "rules": 4, "mux": 4, "webcert": 4},
	"node": {
		"sshd": 0, "uplink": 0, "asaccount": 1, "forward": 1, "process": 2, "account": 3, "loginrecord": 3,
		"pty": 3, "sftp": 3, "rules": 4, "spool": 4,
	},
	"tsh": {
		"profile": 0, "forward": 0, "transfer": 0, "output": 0, "loopback": 0, "sshagent": 0, "sshclient": 1,
		"terminal": 2,
	},
	"ca": {"rootkey": 0, "keyring": 1},

	"raftstore": {"wal": 0},
}

// restricted are components that only these packages may import. A component's root is named by its folder.
var restricted = map[string][]string{
	"ca":        {"auth", "auth/bootstrap", "auth/authorities", "auth/issue"},
	"raftstore": {"auth", "auth/state"},
}

// isTestDouble reports whether a package is for tests alone: a stand-in beside the real package, as httptest
// is beside http, or the network in memory.
func isTestDouble(name string) bool {
	return strings.HasSuffix(name, "test") || name == "internal/testnet"
}

// whyRefused returns why the package from may not import the package to, or "" if it may. Both are folders of
// this repository, as "auth/login".
func whyRefused(from, to string) string {
	fromTop, fromPackage := splitFolder(from)
	toTop, toPackage := splitFolder(to)
	switch {
	case toTop == "cmd" || toTop == "integration" && fromTop != "integration":
		return "nothing imports " + toTop
	case isTestDouble(to) && !isTestDouble(from) && from != "server/demo" && fromTop != "integration":
		return "test doubles are for tests and the demo"
	case fromTop == "internal":
		return whyRefusedInInternal(fromPackage, to)
	case fromTop == toTop:
		return whyRefusedWithinComponent(fromTop, from, fromPackage, toPackage)
	}
	allowed, known := components[fromTop]
	if !known {
		return fromTop + " is no component: see the table in imports_test.go"
	}
	if !slices.Contains(allowed, toTop) && !slices.Contains(allowed, to) {
		return fromTop + " may import only " + strings.Join(allowed, ", ")
	}
	users, isRestricted := restricted[toTop]
	if isRestricted && !slices.Contains(users, from) && !isTestDouble(from) {
		return "only " + strings.Join(users, " and ") + " may import " + toTop
	}
	return ""
}

// whyRefusedInTest is whyRefused for the tests of the package from. They may also import packages of their
// own component in any layer, what testImports says, and the test doubles of internal and of the components
// that from may import.
func whyRefusedInTest(from, to string) string {
	fromTop, _ := splitFolder(from)
	toTop, _ := splitFolder(to)
	switch {
	case toTop == "cmd" && from != to:
		return "nothing imports cmd"
	case fromTop == "internal" && toTop != "internal":
		return "tests of internal import no component"
	case slices.Contains(testImports[fromTop], toTop):
		return ""
	case isTestDouble(to) && (toTop == "internal" || slices.Contains(components[fromTop], toTop)):
		return ""
	case fromTop == toTop && fromTop != "internal":
		return ""
	}
	return whyRefused(from, to)
}

// whyRefusedInInternal is whyRefused for the package internal/from and any to.
func whyRefusedInInternal(from, to string) string {
	top, imported := splitFolder(to)
	if top != "internal" {
		return "internal imports no component"
	}
	allowed, known := internalImports[from]
	if !known {
		return "internal/" + from + " has no row in the table in imports_test.go"
	}
	if from == imported || slices.Contains(allowed, imported) {
		return ""
	}
	return "internal/" + from + " may import of internal only {" + strings.Join(allowed, " ") + "}"
}

// whyRefusedWithinComponent is whyRefused for two packages of the component top. from is the whole folder of
// the importing package; fromPackage and toPackage are the folders inside the component, "" for its root.
func whyRefusedWithinComponent(top, from, fromPackage, toPackage string) string {
	switch {
	case top == "cmd":
		return "programs share nothing but components"
	case from == "server/demo", from == "node/agent": // above their root, as the programs in cmd are
		return ""
	case isTestDouble(from) || fromPackage == toPackage || fromPackage == "" || top == "integration":
		return "" // a root connects the packages inside
	case toPackage == "":
		return "packages inside a component never import its root"
	}
	fromLayer, fromKnown := layers[top][fromPackage]
	toLayer, toKnown := layers[top][toPackage]
	if !fromKnown || !toKnown {
		return "give both packages a layer in imports_test.go"
	}
	if fromLayer >= toLayer {
		return "imports point down, never back or sideways"
	}
	return ""
}

// splitFolder returns the first two elements of a folder: its component, and the package inside. Of
// "auth/oidc/oidctest" they are "auth" and "oidc"; of "auth" they are "auth" and "".
func splitFolder(name string) (top, inside string) {
	top, rest, _ := strings.Cut(name, "/")
	inside, _, _ = strings.Cut(rest, "/")
	return top, inside
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		for _, imported := range p.Imports {
			if to := folderOf(imported); to != "" {
				if why := whyRefused(p.name(), to); why != "" {
					t.Errorf("%s imports %s: %s", p.name(), to, why)
				}
			}
		}
	}
}

func TestImportsOfTestsFollowTheirRules(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
			if to := folderOf(imported); to != "" && to != p.name() {
				if why := whyRefusedInTest(p.name(), to); why != "" {
					t.Errorf("tests of %s import %s: %s", p.name(), to, why)
				}
			}
		}
	}
}

func TestEveryInternalPackageIsInTheTable(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		if top, inside := splitFolder(p.name()); top == "internal" && internalImports[inside] == nil {
			t.Errorf("%s has no row in the table in imports_test.go", p.name())
		}
	}
}

// A row for a package that does not exist makes readers look for it.
func TestTheTablesNameRealPackages(t *testing.T) {
	t.Parallel()
	var named []string
	for top := range components {
		named = append(named, top)
	}
	for name := range internalImports {
		named = append(named, "internal/"+name)
	}
	for top, packages := range layers {
		for name := range packages {
			named = append(named, top+"/"+name)
		}
	}
	for top, users := range restricted {
		named = append(append(named, top), users...)
	}
	for _, name := range named {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Errorf("a table names %s: %v", name, err)
		}
	}
}

// Each row is an import that must be refused: a table that allows too much would find nothing.
func TestTheTableRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, from, to string }{
		{"an internal package importing a component", "internal/access", "auth/state"},
		{"an internal package importing one above it", "internal/identity", "internal/access"},
		{"an internal package importing one beside it", "internal/audit", "internal/dial"},
		{"an internal package without a row", "internal/nosuch", "internal/fault"},
		{"the tunnel importing the rules", "internal/tunnel", "internal/rules"},
		{"the CA importing what uses it", "ca", "auth"},
		{"the CA importing access", "ca", "internal/access"},
		{"the store importing identity", "raftstore", "internal/identity"},
		{"another package importing the CA", "auth/login", "ca"},
		{"another package importing the store", "auth/audit", "raftstore"},
		{"the proxy importing auth", "proxy/web", "auth/login"},
		{"the node importing the proxy", "node/uplink", "proxy/tunnels"},
		{"the client importing the store", "tsh", "raftstore"},
		{"a program importing the CA", "cmd/threshold", "ca"},
		{"a program importing a program", "cmd/threshold", "cmd/threshold-node"},
		{"a production program importing a double", "cmd/threshold", "auth/oidc/oidctest"},
		{"a package importing the network of tests", "internal/dial", "internal/testnet"},
		{"a package importing its root", "auth/login", "auth"},
		{"a package importing back", "auth/login", "auth/issue"},
		{"a package importing sideways", "auth/oidc", "auth/totp"},
		{"a package without a layer", "node/nosuch", "node/pty"},
		{"an unknown component", "nosuch", "internal/fault"},
	} {
		if whyRefused(tt.from, tt.to) == "" {
			t.Errorf("%s: got %s → %s allowed, want refused", tt.name, tt.from, tt.to)
		}
	}
	for _, tt := range []struct{ name, from, to string }{
		{"a test of internal importing a component", "internal/member", "auth/join"},
		{"a test of internal importing one above it", "internal/identity", "internal/access"},
		{"a test of the node importing the proxy", "node", "proxy/tunnels"},
		{"a test of the client importing auth", "tsh", "auth/login"},
		{"a test of the proxy importing the CA", "proxy/mux", "ca"},
		{"a test of the client importing the CA", "tsh", "ca"},
		{"a test of the client importing the keyring", "tsh", "ca/keyring"},
		{"a test of the client importing a double of the CA", "tsh", "ca/keyring/keyringtest"},
		{"a test importing a program", "tsh", "cmd/tsh"},
	} {
		if whyRefusedInTest(tt.from, tt.to) == "" {
			t.Errorf("%s: got %s → %s allowed, want refused", tt.name, tt.from, tt.to)
		}
	}
}

// Each row is an import that must be allowed.
func TestTheTableAllows(t *testing.T) {
	t.Parallel()
	for _, tt := range [][2]string{
		{"cmd/threshold", "server"}, {"server", "auth"}, {"server/demo", "auth/oidc/oidctest"},
		{"server/demo", "server"}, {"cmd/tsh", "tsh"},
		{"auth", "auth/login"}, {"auth", "ca"}, {"auth/issue", "ca"}, {"auth/state", "raftstore"},
		{"auth/api", "auth/state"}, {"auth/issue", "auth/login"}, {"auth/login", "auth/factor"},
		{"proxy/web", "proxy/jump"}, {"node/sshd", "node/forward"}, {"ca", "ca/keyring"},
		{"ca", "internal/identity"}, {"raftstore/raftstoretest", "raftstore"},
		{"internal/authrpc", "internal/tunnel"}, {"tsh", "internal/config"},
	} {
		if why := whyRefused(tt[0], tt[1]); why != "" {
			t.Errorf("got %s → %s refused (%s), want allowed", tt[0], tt[1], why)
		}
	}
	for _, tt := range [][2]string{
		{"auth/login", "auth"}, {"auth/oidc", "auth/oidc/oidctest"}, {"tsh", "internal/clustertest"},
		{"auth/login", "raftstore/raftstoretest"}, {"node", "internal/clustertest"},
		{"internal/egress", "internal/testnet"},
	} {
		if why := whyRefusedInTest(tt[0], tt[1]); why != "" {
			t.Errorf("got a test of %s → %s refused (%s), want allowed", tt[0], tt[1], why)
		}
	}
}

// smallstep are the libraries that only ca may import.
var smallstep = []string{"github.com/smallstep", "go.step.sm"}

func TestOnlyTheCAImportsItsLibraries(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		if top, _ := splitFolder(p.name()); top == "ca" {
			continue
		}
		for _, imported := range p.Imports {
			if within(imported, smallstep) {
				t.Errorf("%s imports %s: only ca may", p.name(), imported)
			}
		}
	}
}

// Whole authority packages of smallstep/certificates pull in databases, gRPC and cloud SDKs.
func TestNobodyLinksTheWholeOfSmallstep(t *testing.T) {
	t.Parallel()
	heavy := []string{
		"github.com/smallstep/certificates/authority",
		"github.com/smallstep/certificates/db",
		"google.golang.org/grpc",
	}
	for _, p := range listPackages(t) {
		for _, dep := range p.Deps {
			if within(dep, heavy) {
				t.Errorf("%s links %s", p.name(), dep)
			}
		}
	}
}

// The agent runs on every node: it is small, and holds nothing that could sign certificates.
func TestTheAgentStaysSmall(t *testing.T) {
	t.Parallel()
	never := append([]string{
		module + "/auth", module + "/ca", module + "/raftstore", module + "/proxy", module + "/tsh",
		"github.com/hashicorp/raft", "github.com/hashicorp/raft-wal", "google.golang.org/grpc",
	}, smallstep...)
	for _, p := range listPackages(t) {
		if top, _ := splitFolder(p.name()); p.name() != "cmd/threshold-node" && top != "node" {
			continue
		}
		for _, dep := range p.Deps {
			if within(dep, never) {
				t.Errorf("%s links %s", p.name(), dep)
			}
		}
	}
}

// A client in a browser (WebAssembly) will link these, and net/http would be most of what it downloads.
func TestPackagesOfABrowserClientDoNotLinkHTTP(t *testing.T) {
	t.Parallel()
	without := []string{
		"internal/fault", "internal/identity", "internal/access", "internal/rules", "internal/tunnel",
		"internal/dial",
	}
	for _, p := range listPackages(t) {
		if slices.Contains(without, p.name()) && slices.Contains(p.Deps, "net/http") {
			t.Errorf("%s links net/http", p.name())
		}
	}
}

func TestNoProgramButTheDemoLinksATestDouble(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		if top, _ := splitFolder(p.name()); top != "cmd" || p.name() == "cmd/threshold-demo" {
			continue
		}
		for _, dep := range p.Deps {
			if folderOf(dep) != "" && isTestDouble(folderOf(dep)) {
				t.Errorf("%s links %s", p.name(), dep)
			}
		}
	}
}

func within(importPath string, trees []string) bool {
	return slices.ContainsFunc(
		trees,
		func(tree string) bool { return importPath == tree || strings.HasPrefix(importPath, tree+"/") },
	)
}
