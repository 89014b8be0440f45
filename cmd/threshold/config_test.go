package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func put(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// told runs the program and returns its exit status and all it said.
func told(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out strings.Builder
	code := run(ctx, args, &out, &out)
	return code, out.String()
}

const head = "kind: server\nversion: v1\nspec:\n  data: /nowhere\n"

func TestCheckSaysEverythingThatIsWrongAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"a good one", "  auth: {}\n  proxy: {public: [a.example.com]}\n", []string{"ok, runs auth, proxy"}},
		{"every key", "  log: {level: debug, format: json}\n  health: 127.0.0.1:3080\n  drain: 5m\n  proxy: {public: [a.example.com], auth: 'auth:3025', acme: {email: a@example.com, directory: 'https://ca/dir', hosts: [a.example.com]}}\n",
			[]string{"ok, runs proxy"}},
		{"nothing to run", "  drain: 0s\n", []string{"names no part to run"}},
		{"a loud log and a strange form", "  auth: {}\n  log: {level: loud, format: xml}\n", []string{`"loud", known are debug`, `"xml", known are text and json`}},
		{"health for everyone", "  auth: {}\n  health: 0.0.0.0:3080\n", []string{"not on loopback"}},
		{"an endless end", "  auth: {}\n  drain: 2h\n", []string{"drain", "at most"}},
		{"a negative end", "  auth: {}\n  drain: -1s\n", []string{"drain", "negative"}},
		{"two certificates", "  auth: {}\n  proxy: {public: [a.example.com], cert_file: a, key_file: b, acme: {}}\n", []string{"stands beside cert_file"}},
		{"nothing that ACME could name", "  auth: {}\n  proxy: {public: [192.0.2.1, localhost, '[::1]:443'], acme: {}}\n", []string{"names no host"}},
		{"a name that is not public", "  auth: {}\n  proxy: {public: [a.example.com], acme: {hosts: [b.example.com], directory: 'http://ca/dir'}}\n", []string{"b.example.com", "https://"}},
		{"a node's proxy that is no address", "  node: {proxies: [access.example.com, 'https://access.example.com']}\n", []string{"node.proxies[1]", "write host or host:port"}},
		{"everything about balancers", "  auth: {}\n  proxy: {public: [a.example.com], balancers: [10.0.0.0/24, 'fd00::/64'], proxy_protocol: true, penalty_exempt: [192.0.2.0/24]}\n",
			[]string{"ok, runs auth, proxy"}},
		{"the PROXY protocol of nobody", "  auth: {}\n  proxy: {public: [a.example.com], proxy_protocol: true}\n", []string{"proxy.proxy_protocol", "needs balancers"}},
		{"balancers that are no networks", "  auth: {}\n  proxy: {public: [a.example.com], balancers: [lb.example.com], penalty_exempt: [10.0.0.0/33]}\n",
			[]string{"balancers[0]", "penalty_exempt[0]"}},
		{"addresses that are none", "  auth: {listen: nonsense}\n  proxy: {public: [a.example.com], listen: ':https', auth: auth.internal}\n",
			[]string{`auth.listen: "nonsense" is no address to listen on`, `proxy.listen: ":https"`, `proxy.auth: "auth.internal" is no address`}},
		{"names that are none", "  auth: {replica: a b}\n  proxy: {public: [], name: A_B}\n  node: {name: a b, https_proxy: 'ftp://gate'}\n",
			[]string{`auth.replica: "a b" is not`, "proxy: needs public", `proxy.name: "A_B" is not`, `node.name: "a b" is not`, "node.https_proxy: "}},
		{"every form of an address", "  auth: {listen: '[::]:3025'}\n  proxy: {public: ['[2001:db8::1]:443'], listen: 'localhost:8443'}\n", []string{"ok, runs auth, proxy"}},
		{"an unknown key", "  auth: {listn: x}\n", []string{"listn"}},
	} {
		code, said := told(t, "check", "--config", put(t, "threshold.yaml", head+tt.spec))
		if good := strings.HasPrefix(tt.want[0], "ok"); good != (code == 0) {
			t.Errorf("%s: got status %d: %s", tt.name, code, said)
		}
		for _, want := range tt.want {
			if !strings.Contains(said, want) {
				t.Errorf("%s: got %q, want %q in it", tt.name, said, want)
			}
		}
	}
}

func TestCheckReadsTheFilesThatAreNamed(t *testing.T) {
	cfg := put(t, "threshold.yaml", head+"  auth: {}\n")
	birth := put(
		t,
		"birth.yaml",
		"kind: cluster\nversion: v1\nmetadata: {name: x.example.com}\nspec: {seal: nonsense}\n",
	)
	if code, said := told(t, "check", "--config", cfg, "--bootstrap", birth); code != 1 ||
		!strings.Contains(said, "no key URI") ||
		!strings.Contains(said, "connector") {
		t.Errorf("got %d, %q, want both faults of the bootstrap file", code, said)
	}
	web := put(
		t,
		"threshold.yaml",
		head+"  auth: {}\n  proxy: {public: [a.example.com], cert_file: /none.pem, key_file: /none.key}\n",
	)
	if code, said := told(t, "check", "--config", web); code != 1 || !strings.Contains(said, "/none.pem") {
		t.Errorf("got %d, %q, want the missing certificate named", code, said)
	}
}

// Whoever forgets to become the service's account would leave files that the service cannot read, its keys
// among them.
func TestRootDoesNotWriteIntoAnotherAccountsFolder(t *testing.T) {
	data := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(data, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	cfg := put(
		t,
		"threshold.yaml",
		"kind: server\nversion: v1\nspec: {data: "+data+", auth: {listen: '127.0.0.1:0'}}\n",
	)
	code, said := told(t, "start", "--config", cfg)
	want := "belongs to the account 12345"
	if os.Geteuid() != 0 {
		want = "there is no cluster" // one's own folder is another matter
	}
	if code != 1 || !strings.Contains(said, want) {
		t.Errorf("got %d, %q, want %q", code, said, want)
	}
}

func TestExitStatus(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
		says string
	}{
		{nil, 2, "threshold start"},
		{[]string{"help"}, 0, "threshold check"},
		{[]string{"version"}, 0, "threshold dev"},
		{[]string{"frobnicate"}, 2, "hint: run: threshold help"},
		{[]string{"start", "-h"}, 0, "-until-ready"},
		{[]string{"check", "-h"}, 0, "-bootstrap"},
		{[]string{"check", "--log-level", "debug"}, 2, "log-level"},
		{[]string{"start", "--first-proxy"}, 2, "give --until-ready too"},
		{[]string{"start", "file"}, 2, "one word too many"},
		{[]string{"start", "--config", "/none"}, 1, "there is no file /none"},
		{[]string{"start", "--log-level", "loud"}, 1, "loud"},
		{[]string{"start", "--log-format", "json", "--config", "/none"}, 1, `"remedy":"see docs/cli.md`},
	} {
		if got, said := told(t, tt.args...); got != tt.want || !strings.Contains(said, tt.says) {
			t.Errorf("%v: got status %d and %q, want %d and %q", tt.args, got, said, tt.want, tt.says)
		}
	}
}
