package agent

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// environment returns a lookup in vars, like os.LookupEnv.
func environment(vars map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := vars[k]; return v, ok }
}

// writeFile writes a file of the test and returns its path.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeSpec writes a configuration file with the spec, in flow style.
func writeSpec(t *testing.T, spec string) string {
	t.Helper()
	return writeFile(t, "kind: node\nversion: v1\nspec: {"+spec+"}\n")
}

// configure returns the node's configuration for a command line and an environment.
func configure(t *testing.T, vars map[string]string, args ...string) (node.Config, error) {
	t.Helper()
	var out strings.Builder
	o, err := parseFlags(args, &out)
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out.String())
	}
	s, err := readFile(o.file)
	if err != nil {
		return node.Config{}, err
	}
	return o.nodeConfig(s, environment(vars))
}

// fullConfig has a value for most keys.
const fullConfig = `kind: node
version: v1
spec:
  proxies: [a.example.com:443, b.example.com:443]
  token_file: TOKEN
  data: /data
  name: from-file
  labels: {self.env: file}
`

// A file that sets everything gives one configuration; the same file with every flag gives that of the flags.
func TestFlagsOverrideTheFile(t *testing.T) {
	token := writeFile(t, " secret \n")
	path := writeFile(t, strings.ReplaceAll(fullConfig, "TOKEN", token))
	cfg, err := configure(t, nil, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	want := node.Config{
		Proxies: []string{"a.example.com:443", "b.example.com:443"},
		Dir:     "/data",
		Name:    "from-file",
		Labels:  identity.Labels{"self.env": "file"},
		Token:   "secret",
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v from the file, want %+v", cfg, want)
	}
	args := "--proxy c:1,d:2 --proxy=e:3 --data /x --name n --label self.env=flag --label self.team=core " +
		"--token on-the-line"
	vars := map[string]string{tokenVariable: "not this"}
	cfg, err = configure(t, vars, append(strings.Fields(args), "--config", path)...)
	if err != nil {
		t.Fatal(err)
	}
	want = node.Config{
		Proxies: []string{"c:1", "d:2", "e:3"},
		Dir:     "/x",
		Name:    "n",
		Labels:  identity.Labels{"self.env": "flag", "self.team": "core"},
		Token:   "on-the-line",
	}
	if !reflect.DeepEqual(cfg, want) {
		t.Errorf("got %+v from the flags, want %+v", cfg, want)
	}
}

func TestSourcesOfTheJoinToken(t *testing.T) {
	vars := map[string]string{tokenVariable: "env"}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"alone", nil, "env"},
		{"beside a file", []string{"--token-file", writeFile(t, "file")}, "file"},
		{"beside the flag", []string{"--token", "flag"}, "flag"},
	} {
		cfg, err := configure(t, vars, append([]string{"--proxy", "p:1", "--data", "/d"}, tt.args...)...)
		if err != nil || cfg.Token != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, cfg.Token, err, tt.want)
		}
	}
}

// A flag overrides the file, and the file the environment. HTTP_PROXY does not count.
func TestSourcesOfTheHTTPProxy(t *testing.T) {
	env := map[string]string{"HTTPS_PROXY": "env:1", "NO_PROXY": "env.example.com", "HTTP_PROXY": "clear:1"}
	path := writeSpec(t, "proxies: [p:1], data: /d, "+
		"https_proxy: 'http://bob:secret@file:1', no_proxy: file.example.com")
	for _, tt := range []struct {
		name string
		args []string
		want egress.Config
	}{
		{
			"the environment alone",
			[]string{"--proxy", "p:1", "--data", "/d"},
			egress.Config{HTTPSProxy: "env:1", NoProxy: "env.example.com"},
		},
		{
			"a file",
			[]string{"--config", path},
			egress.Config{HTTPSProxy: "http://bob:secret@file:1", NoProxy: "file.example.com"},
		},
		{
			"a flag",
			[]string{"--config", path, "--https-proxy", "flag:1"},
			egress.Config{HTTPSProxy: "flag:1", NoProxy: "file.example.com"},
		},
	} {
		cfg, err := configure(t, env, tt.args...)
		if err != nil || cfg.Egress != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, cfg.Egress, err, tt.want)
		}
	}
}

// Each of these command lines is refused, with what is wrong in the message and a remedy.
func TestInvalidConfigurations(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no proxy", nil, "no proxy"},
		{"a file that is not there", []string{"--config", "/none"}, "/none cannot be read"},
		{
			"a token file that is not there",
			[]string{"--proxy", "p:1", "--token-file", "/none"},
			"/none cannot be read",
		},
		{"an unknown key", []string{"--config", writeSpec(t, "proxies: [p:1], naem: x")}, "name"},
		{
			"another kind",
			[]string{"--config", writeFile(t, "kind: server\nversion: v1\nspec: {proxies: [p:1]}\n")},
			"kind: node",
		},
		{
			"a newer version",
			[]string{"--config", writeFile(t, "kind: node\nversion: v2\nspec: {proxies: [p:1]}\n")},
			"knows v1",
		},
		{
			"all faults at once",
			[]string{
				"--config",
				writeFile(t, "kind: x\nversion: v9\nspec: {proxies: [p:1], labels: {'a b': c}}\n"),
			},
			"a b",
		},
	} {
		_, err := configure(t, nil, tt.args...)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v (remedy %q), want an invalid fault with %q",
				tt.name, err, fault.Remedy(err), tt.want)
		}
	}
}

func TestAConfiguredTokenFileMayBeGone(t *testing.T) {
	cfg, err := configure(t, nil, "--config", writeFile(t, strings.ReplaceAll(fullConfig, "TOKEN", "/none")))
	if err != nil || cfg.Token != "" {
		t.Errorf("got %q, %v, want no token and no error", cfg.Token, err)
	}
}

func TestDefaultDataDir(t *testing.T) {
	for _, tt := range []struct {
		uid  int
		vars map[string]string
		want string
	}{
		{0, map[string]string{"HOME": "/root"}, "/var/lib/threshold-node"},
		{1000, map[string]string{"HOME": "/home/a"}, "/home/a/.local/state/threshold-node"},
		{1000, map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "/state"}, "/state/threshold-node"},
	} {
		if got, err := dataDir(tt.uid, environment(tt.vars)); err != nil || got != tt.want {
			t.Errorf("got %q, %v, want %q", got, err, tt.want)
		}
	}
	if _, err := dataDir(1000, environment(nil)); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v without a home, want an invalid fault", err)
	}
}

// Main returns the right status and writes the right text. Its context ends soon, so that what would serve
// stops.
func TestExitStatus(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	data := t.TempDir() + "/d"
	good := writeSpec(
		t,
		"proxies: ['p:1'], data: /d, log: {level: warn}, health: '127.0.0.1:3080', drain: 30s",
	)
	noPort := writeSpec(t, "proxies: ['p:'], data: /d")
	public := writeSpec(t, "proxies: ['p:1'], health: '0.0.0.0:3080', drain: 2h, log: {level: x}")
	local := []string{"--proxy", "127.0.0.1:1", "--data", data}
	for _, tt := range []struct {
		args []string
		want int
		text string // part of the output
	}{
		{[]string{"--version"}, 0, "threshold-node v0"},
		{[]string{"version"}, 0, "threshold-node v0"},
		{[]string{"-h"}, 0, "--token-file"},
		{[]string{"--no-such-flag"}, 2, "no-such-flag\nthreshold-node: hint: run: threshold-node -h\n"},
		{[]string{"--label", "novalue"}, 2, "key=value"},
		{[]string{"--label", "env=prod"}, 2, "write self.env"},
		{[]string{"start"}, 2, `unexpected argument "start"`},
		{[]string{"--log-level", "loud"}, 1, "not debug"},
		{
			[]string{"--log-format", "json", "--config", "/none"},
			1,
			`"remedy":"name another file with --config"`,
		},
		{[]string{"--check", "--config", good}, 0, "ok, dials p:1"},
		{[]string{"--check", "--config", noPort}, 1, "is not host:port"},
		{[]string{"--check", "--config", public}, 1, "not on loopback"},
		{nil, 1, "hint: give the cluster's address"},
		{append(local, "--https-proxy", "socks5://x:1"), 1, "only http:// and https:// proxies"},
		{
			append(local, "--https-proxy", "http://bob:pw@x:1"),
			1,
			"password of the HTTP proxy is on the command line",
		},
		{[]string{"--proxy", "p:", "--data", data}, 1, "is not host:port"},
		{local, 1, "no join token"},
		{append(local, "--token", "x"), 1, "other users of this machine can read it"},
	} {
		var out strings.Builder
		got := Main(ctx, "v0", tt.args, &out, &out)
		if got != tt.want || !strings.Contains(out.String(), tt.text) {
			t.Errorf("%v: got status %d and %q, want %d and %q", tt.args, got, out.String(), tt.want, tt.text)
		}
	}
	if _, err := parseFlags([]string{"-h"}, &strings.Builder{}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v for -h, want help", err)
	}
}

// The default file counts only if it exists and the flags name neither a proxy nor another file.
func TestTheDefaultFileIsUsedIfNoProxyIsNamed(t *testing.T) {
	path := writeFile(t, fullConfig)
	for _, tt := range []struct {
		name string
		args []string
		file string
		want string
	}{
		{"without flags", nil, path, path},
		{"with flags that name no proxy", []string{"--check", "--log-level", "debug"}, path, path},
		{"beside a proxy", []string{"--proxy", "p:1"}, path, ""},
		{"beside another file", []string{"--config", "/other"}, path, "/other"},
		{"where there is none", nil, path + "-none", ""},
	} {
		o, err := parseFlags(tt.args, &strings.Builder{})
		if err != nil {
			t.Fatal(err)
		}
		if o.setDefaultFile(tt.file); o.file != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, o.file, tt.want)
		}
	}
}

func TestAProxyWithoutAPortIsOnPort443(t *testing.T) {
	for addr, want := range map[string]string{
		"p.example.com":      "p.example.com:443",
		"p.example.com:8443": "p.example.com:8443",
		"192.0.2.1":          "192.0.2.1:443",
		"2001:db8::1":        "[2001:db8::1]:443",
		"[2001:db8::1]":      "[2001:db8::1]:443",
		"[2001:db8::1]:8443": "[2001:db8::1]:8443",
	} {
		cfg, err := configure(t, nil, "--proxy", addr, "--data", "/d")
		if err != nil || cfg.Proxies[0] != want {
			t.Errorf("%s: got %v, %v, want %s", addr, cfg.Proxies, err, want)
		}
	}
}

// The golden file has every key, and is accepted. A key of another release is an error and not ignored, and
// so is another version.
func TestTheGoldenConfigurationIsRead(t *testing.T) {
	t.Parallel()
	golden := filepath.Join("testdata", "node.yaml")
	got, err := readFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.ValueOf(got).NumField() {
		if reflect.ValueOf(got).Field(i).IsZero() {
			t.Errorf("got no value of %s, want one", reflect.TypeOf(got).Field(i).Name)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ old, text, want string }{
		"an unknown key":   {"  drain: 30s", "  tomorrow: 1", "tomorrow"},
		"the next version": {"version: v1", "version: v2", "this program knows v1"},
	} {
		_, err := readFile(writeFile(t, strings.Replace(string(text), tt.old, tt.text, 1)))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Message(err), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
