package repocheck_test

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// components are the top-level folders that hold Go packages, with what each may import beside itself.
// "internal" stands for every package in it; cmd may also link rooms of the components it names, because a
// main wires.
var components = map[string][]string{
	"cmd":         {"server", "node", "tsh", "internal"},
	"server":      {"auth", "proxy", "node", "internal"},
	"auth":        {"internal", "ca", "raftstore"},
	"proxy":       {"internal", "web"},
	"node":        {"internal"},
	"tsh":         {"internal"},
	"ca":          {"internal/identity", "internal/fault"},
	"raftstore":   {"internal/fault"},
	"web":         {},
	"integration": {"auth", "proxy", "node", "tsh", "internal"},
}

// internalImports are the packages under internal, with what each may import of the module: fault ← identity
// ← access ← rules ← {audit recording dial} ← authrpc. tunnel stands beside access; config is a leaf that
// anyone may read files with.
var internalImports = map[string][]string{
	"fault":       {},
	"identity":    {"fault"},
	"config":      {"fault"},
	"testnet":     {},
	"formbrowser": {},
	"lifecycle":   {"fault"},
	"backoff":     {},
	"connqueue":   {},
	"prefixconn":  {},
	"limitedlog":  {},
	"rulesfile":   {"durable", "fault", "identity", "config", "access", "rules"},
	"sshprofile":  {"fault", "identity"},
	"durable":     {},
	"daemon":      {"fault"},
	"limit":       {},
	"keepalive":   {},
	"coalesce":    {},
	"repocheck":   {},
	"access":      {"fault", "identity", "config"},
	"tunnel":      {"fault", "coalesce", "identity"},
	"rules":       {"fault", "identity", "config", "access"},
	"audit":       {"fault", "identity", "config", "access", "rules"},
	"recording":   {"fault", "identity", "config", "access", "rules"},
	"dial":        {"fault", "identity", "config", "access", "rules"},
	"egress":      {"fault", "coalesce", "identity", "keepalive", "dial", "prefixconn"},
	"authrpc": {
		"keepalive",
		"limitedlog",
		"prefixconn",
		"fault",
		"identity",
		"config",
		"access",
		"rules",
		"tunnel",
		"audit",
		"recording",
		"dial",
	},
	"member": {
		"fault",
		"identity",
		"config",
		"access",
		"rules",
		"tunnel",
		"audit",
		"dial",
		"authrpc",
		"backoff",
		"durable",
	},
}

// layers give each room of a component its height: imports go from a lower number to a higher one, never
// back, never sideways.
var layers = map[string]map[string]int{
	"auth": {
		"port": 0, "api": 0, "issue": 1, "resources": 1, "login": 2, "join": 2, "oidc": 3, "totp": 3,
		"rules": 4, "attachments": 4, "audit": 4, "cluster": 4, "recordings": 4, "state": 5,
	},
	"proxy": {"web": 0, "jump": 1, "tunnels": 2, "peers": 3, "rules": 4, "mux": 4},
	"node": {
		"sshd": 0, "uplink": 0, "asaccount": 1, "forward": 1, "process": 2, "account": 3, "loginrecord": 3, "pty": 3,
		"sftp": 3, "rules": 4, "spool": 4,
	},
	"tsh": {"profile": 0, "forward": 0},
	"ca":  {"keyring": 0},

	"raftstore": {"wal": 0},
}

// restricted are packages that only these may import. The root of a component is itself its folder's name.
var restricted = map[string][]string{
	"ca":        {"auth", "auth/issue"},
	"raftstore": {"auth", "auth/state"},
	"web":       {"proxy", "proxy/web"},
}

// isTestDouble reports whether a package is a stand-in beside the real thing, as httptest is beside http.
func isTestDouble(name string) bool { return strings.HasSuffix(name, "test") }

// refuse says why from may not import to, both folders of this repository, or "" when it may.
func refuse(from, to string) string {
	fromTop, fromRoom := split(from)
	toTop, toRoom := split(to)
	switch {
	case toTop == "cmd" || toTop == "integration" && fromTop != "integration":
		return "nothing imports " + toTop
	case isTestDouble(to) && !isTestDouble(from) && from != "server/demo" && fromTop != "integration":
		return "test doubles are for tests and the demo"
	case fromTop == "internal":
		return refuseInternal(fromRoom, to)
	case fromTop == toTop:
		return refuseWithinComponent(fromTop, from, fromRoom, toRoom)
	}
	allowed, known := components[fromTop]
	if !known {
		return fromTop + " is no component: see the table in imports_test.go"
	}
	if !slices.Contains(allowed, toTop) && !slices.Contains(allowed, to) {
		return fromTop + " may import only " + strings.Join(allowed, ", ")
	}
	if users, locked := restricted[toTop]; locked && !slices.Contains(users, from) && !isTestDouble(from) {
		return "only " + strings.Join(users, " and ") + " may import " + toTop
	}
	return ""
}

func refuseInternal(from, to string) string {
	top, room := split(to)
	if top != "internal" {
		return "internal imports no component"
	}
	allowed, known := internalImports[from]
	if !known {
		return "internal/" + from + " has no place in the table in imports_test.go"
	}
	if from == room || slices.Contains(allowed, room) {
		return ""
	}
	return "internal/" + from + " may import of internal only {" + strings.Join(allowed, " ") + "}"
}

func refuseWithinComponent(top, from, fromRoom, toRoom string) string {
	switch {
	case top == "cmd":
		return "programs share nothing but components"
	case from == "server/demo": // a program's package above the server, as cmd is
		return ""
	case isTestDouble(from) || fromRoom == toRoom || fromRoom == "" || top == "integration":
		return "" // a root wires its rooms
	case toRoom == "":
		return "rooms never import their root"
	}
	low, ok := layers[top][fromRoom]
	high, ok2 := layers[top][toRoom]
	if !ok || !ok2 {
		return "give both rooms a floor in imports_test.go"
	}
	if low >= high {
		return "imports point down, never back or sideways"
	}
	return ""
}

// split returns a folder's component and room: "auth/oidc/oidctest" is in room oidc of auth.
func split(name string) (top, room string) {
	top, rest, _ := strings.Cut(name, "/")
	room, _, _ = strings.Cut(rest, "/")
	return top, room
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, imported := range p.Imports {
			if to := local(imported); to != "" {
				if why := refuse(p.name(), to); why != "" {
					t.Errorf("%s imports %s: %s", p.name(), to, why)
				}
			}
		}
	}
}

func TestEveryInternalPackageIsInTheTable(t *testing.T) {
	for _, p := range listPackages(t) {
		if top, room := split(p.name()); top == "internal" && internalImports[room] == nil {
			t.Errorf("%s has no place in the table in imports_test.go", p.name())
		}
	}
}

func TestTheTableRefuses(t *testing.T) {
	for _, tt := range []struct{ name, from, to string }{
		{"a contract importing a component", "internal/access", "auth/state"},
		{"a contract importing one above it", "internal/identity", "internal/access"},
		{"a contract importing one beside it", "internal/audit", "internal/dial"},
		{"a contract without a place", "internal/zeal", "internal/fault"},
		{"the tunnel importing the rules", "internal/tunnel", "internal/rules"},
		{"the CA importing what uses it", "ca", "auth"},
		{"the CA importing access", "ca", "internal/access"},
		{"the store importing identity", "raftstore", "internal/identity"},
		{"a second room importing the CA", "auth/login", "ca"},
		{"a second room importing the store", "auth/audit", "raftstore"},
		{"the proxy importing auth", "proxy/web", "auth/login"},
		{"the node importing the proxy", "node/uplink", "proxy/tunnels"},
		{"the client importing the store", "tsh", "raftstore"},
		{"a program importing the CA", "cmd/threshold", "ca"},
		{"a program importing a program", "cmd/threshold", "cmd/threshold-node"},
		{"a production program importing a double", "cmd/threshold", "auth/oidc/oidctest"},
		{"a room importing its root", "auth/login", "auth"},
		{"a room importing back", "auth/login", "auth/issue"},
		{"a room importing sideways", "auth/oidc", "auth/totp"},
		{"a room without a floor", "node/cellar", "node/pty"},
		{"an unknown component", "shed", "internal/fault"},
	} {
		if refuse(tt.from, tt.to) == "" {
			t.Errorf("%s: got %s → %s allowed, want refused", tt.name, tt.from, tt.to)
		}
	}
}

func TestTheTableAllows(t *testing.T) {
	for _, tt := range [][2]string{
		{"cmd/threshold", "server"}, {"server", "auth"}, {"server/demo", "auth/oidc/oidctest"},
		{"server/demo", "server"}, {"cmd/tsh", "tsh"}, {"auth", "auth/login"}, {"auth", "ca"},
		{"auth/issue", "ca"}, {"auth/state", "raftstore"}, {"auth/api", "auth/state"}, {"auth/issue", "auth/login"}, {"auth/login", "auth/totp"},
		{"proxy/web", "proxy/jump"}, {"proxy", "web"}, {"node/sshd", "node/process"}, {"ca", "ca/keyring"}, {"ca", "internal/identity"},
		{"raftstore/raftstoretest", "raftstore"}, {"internal/authrpc", "internal/tunnel"}, {"tsh", "internal/config"},
	} {
		if why := refuse(tt[0], tt[1]); why != "" {
			t.Errorf("got %s → %s refused (%s), want allowed", tt[0], tt[1], why)
		}
	}
}

// smallstep's parts, which ca/ alone knows.
var smallstep = []string{"github.com/smallstep", "go.step.sm"}

func TestOnlyTheCAImportsItsLibraries(t *testing.T) {
	for _, p := range listPackages(t) {
		if top, _ := split(p.name()); top == "ca" {
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

// The agent runs on every machine: small, and with nothing in it that could sign.
func TestTheAgentStaysSmall(t *testing.T) {
	never := append([]string{
		module + "/auth", module + "/ca", module + "/raftstore", module + "/proxy", module + "/tsh",
		"github.com/hashicorp/raft", "github.com/hashicorp/raft-wal", "google.golang.org/grpc",
	}, smallstep...)
	for _, p := range listPackages(t) {
		if top, _ := split(p.name()); p.name() != "cmd/threshold-node" && top != "node" {
			continue
		}
		for _, dep := range p.Deps {
			if within(dep, never) {
				t.Errorf("%s links %s", p.name(), dep)
			}
		}
	}
}

// A client in a browser (WebAssembly) is to link these, and net/http is most of what it would download.
func TestContractsWithoutHTTPLinkNone(t *testing.T) {
	without := []string{
		"internal/fault", "internal/identity", "internal/access", "internal/rules", "internal/tunnel", "internal/dial",
	}
	for _, p := range listPackages(t) {
		if slices.Contains(without, p.name()) && slices.Contains(p.Deps, "net/http") {
			t.Errorf("%s links net/http", p.name())
		}
	}
}

func TestNoProgramButTheDemoLinksATestDouble(t *testing.T) {
	for _, p := range listPackages(t) {
		if top, _ := split(p.name()); top != "cmd" || p.name() == "cmd/threshold-demo" {
			continue
		}
		for _, dep := range p.Deps {
			if local(dep) != "" && isTestDouble(path.Base(dep)) {
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
