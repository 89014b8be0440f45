package server_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/server"
)

// writeFile writes a file into a folder of its own and returns its path.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs the program in a context that has ended, and returns its exit status and its output.
func run(t *testing.T, args ...string) (status int, output string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out strings.Builder
	status = server.Main(ctx, "dev", args, &out, &out)
	return status, out.String()
}

const header = "kind: server\nversion: v1\nspec:\n  data: /nowhere\n"

// Sections that several cases need.
const (
	auth  = "  auth: {}\n"
	proxy = "  proxy: {public: [a.example.com]}\n"
)

// check accepts valid files and names every mistake in an invalid one, each by its key.
func TestCheckReportsEveryFaultAtOnce(t *testing.T) {
	t.Parallel()
	const (
		everyKey = `
  log: {level: debug, format: json}
  health: 127.0.0.1:3080
  drain: 5m
  proxy:
    public: [a.example.com]
    auth: 'auth:3025'
    acme: {email: a@example.com, directory: 'https://ca/dir', hosts: [a.example.com]}
`
		loadBalancers = `
  proxy:
    public: [a.example.com]
    balancers: [10.0.0.0/24, 'fd00::/64']
    proxy_protocol: true
    penalty_exempt: [192.0.2.0/24]
`
		twoCertificates = "  proxy: {public: [a.example.com], cert_file: a, key_file: b, acme: {}}\n"
		noHostForACME   = "  proxy: {public: [192.0.2.1, localhost, '[::1]:443'], acme: {}}\n"
		foreignACMEHost = `
  proxy:
    public: [a.example.com]
    acme: {hosts: [b.example.com], directory: 'http://ca/dir'}
`
		nobodysPROXY  = "  proxy: {public: [a.example.com], proxy_protocol: true}\n"
		wrongNetworks = `
  proxy:
    public: [a.example.com]
    balancers: [lb.example.com]
    penalty_exempt: [10.0.0.0/33]
`
		wrongAddresses = `
  auth: {listen: nonsense}
  proxy: {public: [a.example.com], listen: ':https', auth: auth.internal}
`
		wrongNames = `
  auth: {replica: a b}
  proxy: {public: [], name: A_B}
  node: {name: a b, https_proxy: 'ftp://gate'}
`
		ipv6 = `
  auth: {listen: '[::]:3025'}
  proxy: {public: ['[2001:db8::1]:443'], listen: 'localhost:8443'}
`
	)
	for _, tt := range []struct {
		name, spec string
		want       []string // an entry that begins with "ok" means success
	}{
		{"a valid file", auth + proxy, []string{"ok, runs auth, proxy"}},
		{"every key", everyKey, []string{"ok, runs proxy"}},
		{"load balancers", auth + loadBalancers, []string{"ok, runs auth, proxy"}},
		{"every form of an address", ipv6, []string{"ok, runs auth, proxy"}},

		{"no part", "  drain: 0s\n", []string{"there is no part to run"}},
		{
			"an unknown log level and format", auth + "  log: {level: loud, format: xml}\n",
			[]string{`"loud"`, "debug", `"xml"`, "json"},
		},
		{"a public health port", auth + "  health: 0.0.0.0:3080\n", []string{"not on loopback"}},
		{"a drain of two hours", auth + "  drain: 2h\n", []string{"drain", "at most"}},
		{"a negative drain", auth + "  drain: -1s\n", []string{"drain", "negative"}},
		{"ACME beside a certificate", auth + twoCertificates, []string{"excludes cert_file"}},
		{"no host name for ACME", auth + noHostForACME, []string{"has no host name"}},
		{"an ACME host that is not public", auth + foreignACMEHost, []string{"b.example.com", "https://"}},
		{
			"a proxy that is a URL",
			"  node: {proxies: [access.example.com, 'https://access.example.com']}\n",
			[]string{"node.proxies[1]", "write host or host:port"},
		},
		{"the PROXY protocol without balancers", auth + nobodysPROXY, []string{"needs balancers"}},
		{
			"balancers that are not networks", auth + wrongNetworks,
			[]string{"balancers[0]", "penalty_exempt[0]"},
		},
		{
			"addresses without a port", wrongAddresses,
			[]string{
				`auth.listen: "nonsense" is not an address`,
				`proxy.listen: ":https"`,
				`proxy.auth: "auth.internal" is not an address`,
			},
		},
		{
			"names that are not host names", wrongNames,
			[]string{
				`auth.replica: "a b" is not`,
				"proxy: needs public",
				`proxy.name: "A_B" is not`,
				`node.name: "a b" is not`,
				"node.https_proxy: ",
			},
		},
		{"an unknown key", "  auth: {listn: x}\n", []string{"listn"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			status, output := run(t, "check", "--config", writeFile(t, "threshold.yaml", header+tt.spec))
			if valid := strings.HasPrefix(tt.want[0], "ok"); valid != (status == 0) {
				t.Errorf("got status %d: %s", status, output)
			}
			for _, want := range tt.want {
				if !strings.Contains(output, want) {
					t.Errorf("got %q, want %q in it", output, want)
				}
			}
		})
	}
}

func TestCheckReadsTheFilesThatAreNamed(t *testing.T) {
	t.Parallel()
	const bootstrap = "kind: cluster\nversion: v1\nmetadata: {name: x.example.com}\nspec: {seal: nonsense}\n"
	config, file := writeFile(t, "threshold.yaml", header+auth), writeFile(t, "cluster.yaml", bootstrap)
	status, output := run(t, "check", "--config", config, "--bootstrap", file)
	if status != 1 || !strings.Contains(output, "spec.seal") || !strings.Contains(output, "connector") {
		t.Errorf("got %d, %q, want both faults of the bootstrap file", status, output)
	}
	config = writeFile(
		t,
		"threshold.yaml",
		header+auth+"  proxy: {public: [a.example.com], cert_file: /none.pem, key_file: /none.key}\n",
	)
	status, output = run(t, "check", "--config", config)
	if status != 1 || !strings.Contains(output, "/none.pem") {
		t.Errorf("got %d, %q, want the missing certificate named", status, output)
	}
}

// An administrator who forgets to become the service's account would leave files that the service cannot
// read, its keys among them.
func TestRootDoesNotWriteIntoTheFolderOfAnotherAccount(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(data, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	config := writeFile(
		t,
		"threshold.yaml",
		"kind: server\nversion: v1\nspec: {data: "+data+", auth: {listen: '127.0.0.1:0'}}\n",
	)
	want := "belongs to the account 12345"
	if os.Geteuid() != 0 {
		want = "there is no cluster" // the account's own folder is used
	}
	if status, output := run(t, "start", "--config", config); status != 1 || !strings.Contains(output, want) {
		t.Errorf("got %d, %q, want %q", status, output, want)
	}
}

// The exit status is 0 for help and version, 2 for a wrong command line, and 1 for other errors.
func TestExitStatus(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args   []string
		status int
		output string
	}{
		{nil, 2, "threshold start"},
		{[]string{"help"}, 0, "threshold check"},
		{[]string{"version"}, 0, "threshold dev"},
		{[]string{"frobnicate"}, 2, "hint: run: threshold help"},
		{[]string{"start", "-h"}, 0, "-until-ready"},
		{[]string{"check", "-h"}, 0, "-bootstrap"},
		{[]string{"check", "--log-level", "debug"}, 2, "log-level"},
		{[]string{"start", "--first-proxy"}, 2, "add --until-ready"},
		{[]string{"start", "--public-name", "a.example"}, 2, "is for --first-proxy"},
		{[]string{"start", "file"}, 2, `unexpected argument "file"`},
		{[]string{"start", "--config", "/none"}, 1, "there is no file /none"},
		{[]string{"start", "--log-level", "loud"}, 1, "loud"},
		{[]string{"start", "--log-format", "json", "--config", "/none"}, 1, `"remedy":"see docs/cli.md`},
	} {
		status, output := run(t, tt.args...)
		if status != tt.status || !strings.Contains(output, tt.output) {
			t.Errorf(
				"%v: got status %d and %q, want %d and %q",
				tt.args,
				status,
				output,
				tt.status,
				tt.output,
			)
		}
	}
}

// The root key of a new cluster needs a file and a protection. What is wrong with them is said before
// anything is created.
func TestTheRootKeyNeedsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := strings.Replace(bootstrap, "  root_key: store\n", "", 1)
	text = strings.Replace(text, "SEAL", filepath.Join(dir, "seal.key"), 1)
	file := writeFile(t, "cluster.yaml", text)
	spec := strings.Replace(header, "/nowhere", dir+"/data", 1) + auth
	config := writeFile(t, "threshold.yaml", spec)
	out := filepath.Join(dir, "root.key.age")
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{nil, "--root-key-out FILE"},
		{[]string{"--root-key-recipient", "age1x"}, "add --root-key-out FILE"},
		{[]string{"--root-key-out", out, "--root-key-recipient", "age1x"}, "not of the form age1"},
		{[]string{"--root-key-out", out, "--root-key-passphrase-file", writeFile(t, "pass", "short\n")},
			"shorter than 12"},
		{[]string{"--root-key-out", out, "--root-key-passphrase-file", "/nowhere/pass"}, "/nowhere/pass"},
	} {
		args := append([]string{"start", "--config", config, "--bootstrap", file}, tt.flags...)
		status, output := run(t, args...)
		if status != 1 || !strings.Contains(output, tt.want) {
			t.Errorf("%q: got %d, %q, want %q in it", tt.flags, status, output, tt.want)
		}
	}
	for _, path := range []string{out, filepath.Join(dir, "seal.key"), filepath.Join(dir, "data")} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("got %s created, want nothing", path)
		}
	}
}

// A request of a stolen replica cannot hide a key from the operator who is asked to sign it.
func TestTheRootShowsARequestAsItIs(t *testing.T) {
	t.Parallel()
	request := writeFile(t, "request.json", `{"v":1,"cluster":"a.example","body":{"keys":[
		{"authority":"rules","generation":2,"state":"active","id":"beef"},
		{"authority":"\u001b[1A\u001b[2Kx","generation":1,"state":"\r\u202e","id":"\u001b[8m"}]}}`)
	status, output := run(t, "root", "sign", "--root-key", "/nowhere/key", request)
	want := `\x1b[1A\x1b[2Kx  1  \r\u202e  \x1b[8m`
	if status != 1 || !strings.Contains(output, want) || strings.ContainsAny(output, "\x1b\r\u202e") {
		t.Errorf("got %d and %q, want %q in it", status, output, want)
	}
}
