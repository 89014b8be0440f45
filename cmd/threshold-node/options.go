package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node"
)

// tokenVariable may hold the join token: unlike the command line it does not show in ps.
const tokenVariable = "THRESHOLD_TOKEN"

// systemData is where a node that runs as root keeps its keys.
const systemData = "/var/lib/threshold-node"

// defaultConfig is read when neither a file nor a proxy is named.
const defaultConfig = "/etc/threshold/node.yaml"

// maxToken bounds a token file, in bytes.
const maxToken = 4 << 10

const usage = `threshold-node makes this machine reachable through a Threshold cluster. It opens no port.

  threshold-node --proxy HOST:PORT --token-file FILE   the first start: join with a token from an administrator
  threshold-node --proxy HOST:PORT                     every later start
  threshold-node --config FILE                         the same from a file

  threshold-node --check                               say what is wrong with all that, and start nothing

Without --config and --proxy it reads /etc/threshold/node.yaml, if there is one.
The token may also be in the environment variable THRESHOLD_TOKEN.
A second signal ends the agent at once, without waiting for sessions.

`

// errUsage says that the flag package has told the person what is wrong.
var errUsage = errors.New("usage")

// options are what the command line says.
type options struct {
	file        string
	proxies     list
	token       string
	tokenFile   string
	data        string
	name        string
	labels      labels
	httpsProxy  string
	log         daemon.Log
	check       bool
	showVersion bool
}

// file is the configuration file.
type file struct {
	Kind    string `yaml:"kind"    config:"required"` // node
	Version string `yaml:"version" config:"required"` // v1
	Spec    spec   `yaml:"spec"    config:"required"`
}

// spec has what the flags have, but for the token itself, which belongs in a file of its own.
type spec struct {
	Proxies   config.Strings    `yaml:"proxies"     config:"required"`
	TokenFile string            `yaml:"token_file"`
	Data      string            `yaml:"data"`
	Name      string            `yaml:"name"`
	Labels    map[string]string `yaml:"labels"`
	// HTTPSProxy is the company's HTTP proxy on the way to the cluster, and NoProxy what is reached without
	// it. Where they are empty, the environment's HTTPS_PROXY and NO_PROXY count.
	HTTPSProxy string `yaml:"https_proxy"`
	NoProxy    string `yaml:"no_proxy"`
	// Log is how much the log tells, and in which form. Flags win over it.
	Log daemon.Log `yaml:"log"`
	// Health is an address on loopback that answers /healthz and /readyz. Empty means none: the agent listens
	// on nothing.
	Health string `yaml:"health"`
	// Drain is how long sessions may go on after SIGTERM. Zero means 10s; at most 1h.
	Drain time.Duration `yaml:"drain"`
}

// Check finds what the types cannot say.
func (f file) Check(report func(path, format string, args ...any)) {
	if f.Kind != "" && f.Kind != "node" {
		report("kind", "is %q, a node's configuration has kind: node", f.Kind)
	}
	if f.Version != "" && f.Version != "v1" {
		report("version", "is %q, this program knows v1", f.Version)
	}
	if err := identity.Labels(f.Spec.Labels).Check(); err != nil {
		report("spec.labels", "%v", err)
	}
	if f.Spec.Health != "" {
		if err := daemon.CheckHealthAddr(f.Spec.Health); err != nil {
			report("spec.health", "%v", err)
		}
	}
	if f.Spec.Drain > maxDrain {
		report("spec.drain", "is %s, it must be at most %s", f.Spec.Drain, maxDrain)
	}
}

// Bounds of how long sessions may go on after SIGTERM.
const (
	defaultDrain = 10 * time.Second
	maxDrain     = time.Hour
)

// list is a flag that may be given several times, or with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	for one := range strings.SplitSeq(s, ",") {
		if one = strings.TrimSpace(one); one == "" {
			return errors.New("is empty")
		} else {
			*l = append(*l, one)
		}
	}
	return nil
}

// labels is the flag --label key=value.
type labels map[string]string

func (l labels) String() string { return "" }

func (l labels) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("must be key=value")
	}
	if err := (identity.Labels{key: value}).Check(); err != nil {
		return err
	}
	l[key] = value
	return nil
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{labels: labels{}}
	flags := flag.NewFlagSet("threshold-node", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong comes without the whole help around it
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	flags.StringVar(&o.file, "config", "", "read the configuration `FILE`; flags win over it")
	flags.Var(&o.proxies, "proxy", "`HOST:PORT` of the cluster's public port; may be repeated")
	flags.StringVar(
		&o.token,
		"token",
		"",
		"the join `TOKEN`; others can read it in ps, so prefer --token-file",
	)
	flags.StringVar(&o.tokenFile, "token-file", "", "read the join token from `FILE`")
	flags.StringVar(
		&o.data,
		"data",
		"",
		"keep keys in `DIR` (default "+systemData+", or the user's own state directory)",
	)
	flags.StringVar(&o.name, "name", "", "the `NAME` to wish for (default this machine's host name)")
	flags.Var(o.labels, "label", "a label `KEY=VALUE` to wish for; may be repeated")
	flags.StringVar(
		&o.httpsProxy,
		"https-proxy",
		"",
		"the `URL` of an HTTP proxy on the way to the cluster (default $HTTPS_PROXY); put one with a password into the file",
	)
	flags.StringVar(
		&o.log.Level,
		"log-level",
		"",
		"`LEVEL` of the log: debug, info, warn or error (default info)",
	)
	flags.StringVar(&o.log.Format, "log-format", "", "`FORM` of the log: text or json (default text)")
	flags.BoolVar(
		&o.check,
		"check",
		false,
		"say what is wrong with the flags and the file, and start nothing",
	)
	flags.BoolVar(&o.showVersion, "version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			flags.Usage()
			return o, err
		}
		fmt.Fprintf(stderr, "threshold-node: error: %v\nthreshold-node: hint: run: threshold-node -h\n", err)
		return o, errUsage
	}
	if flags.NArg() == 1 && flags.Arg(0) == "version" {
		o.showVersion = true
	} else if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "threshold-node: error: %q is no flag\nthreshold-node: hint: run: threshold-node -h\n", flags.Arg(0))
		return o, errUsage
	}
	return o, nil
}

// orDefault names the file that is read when nothing else says where to go, if it is there.
func (o options) orDefault(name string) options {
	if o.file == "" && len(o.proxies) == 0 {
		if _, err := os.Stat(name); err == nil {
			o.file = name
		}
	}
	return o
}

// read reads the configuration file; none is an empty one.
func (o options) read() (s spec, err error) {
	if o.file == "" {
		return s, nil
	}
	b, err := os.ReadFile(o.file)
	if err != nil {
		return s, fault.Wrap(
			err,
			fault.Invalid,
			"",
			"the configuration file "+o.file+" cannot be read: "+reason(err),
			"name another with --config",
		)
	}
	var f file
	err = config.Decode(o.file, b, &f)
	return f.Spec, err
}

// config puts flags, file and environment together.
func (o options) config(s spec, env func(string) (string, bool)) (node.Config, error) {
	cfg := node.Config{
		Proxies: pick(o.proxies, list(s.Proxies)),
		Dir:     first(o.data, s.Data),
		Name:    first(o.name, s.Name),
		Labels:  identity.Labels(s.Labels),
		Drain:   s.Drain,
	}
	if len(o.labels) > 0 {
		cfg.Labels = identity.Labels(o.labels)
	}
	for i, p := range cfg.Proxies {
		cfg.Proxies[i] = withPort(p)
	}
	if len(cfg.Proxies) == 0 {
		return node.Config{}, fault.New(
			fault.Invalid,
			"",
			"there is no proxy to dial",
			"give the cluster's address, as --proxy proxy.example.com:443, or write "+defaultConfig,
		)
	}
	cfg.Egress = egress.Config{
		HTTPSProxy: first(o.httpsProxy, s.HTTPSProxy),
		NoProxy:    s.NoProxy,
	}.WithDefaults(
		egress.ConfigFromEnv(func(k string) string { v, _ := env(k); return v }),
	)
	var err error
	if cfg.Dir == "" {
		if cfg.Dir, err = dataDir(os.Geteuid(), env); err != nil {
			return node.Config{}, err
		}
	}
	cfg.Token, err = o.joinToken(s.TokenFile, env)
	return cfg, err
}

func (o options) joinToken(fromFile string, env func(string) (string, bool)) (string, error) {
	if o.token != "" {
		return o.token, nil
	}
	name := first(o.tokenFile, fromFile)
	if name == "" {
		t, _ := env(tokenVariable)
		return t, nil
	}
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist) && o.tokenFile == "":
		return "", nil // a file that was removed after the join, as it should be
	case err != nil:
		return "", fault.Wrap(
			err,
			fault.Invalid,
			"",
			"the token file "+name+" cannot be read: "+reason(err),
			"check --token-file",
		)
	case len(b) > maxToken:
		return "", fault.New(
			fault.Invalid,
			"",
			"the token file "+name+" is too large to hold a token",
			"check --token-file",
		)
	}
	return strings.TrimSpace(string(b)), nil
}

func dataDir(uid int, env func(string) (string, bool)) (string, error) {
	if uid == 0 {
		return systemData, nil
	}
	if dir, ok := env("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "threshold-node"), nil
	}
	if home, ok := env("HOME"); ok && filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "threshold-node"), nil
	}
	return "", fault.New(
		fault.Invalid,
		"",
		"there is no home directory to keep keys in",
		"name a directory with --data",
	)
}

// withPort adds the HTTPS port to a host that has none. What is no host is left for node.New to refuse.
func withPort(addr string) string {
	if host := strings.Trim(addr, "[]"); !strings.ContainsAny(addr, "/ ") &&
		(!strings.Contains(host, ":") || net.ParseIP(host) != nil) {
		return net.JoinHostPort(host, "443")
	}
	return addr
}

func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func pick(a, b list) list {
	if len(a) > 0 {
		return a
	}
	return b
}
