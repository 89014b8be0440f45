package agent

import (
	"cmp"
	"errors"
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

const (
	// tokenVariable is the environment variable that may contain the join token. Unlike the command line,
	// other users cannot see it in ps.
	tokenVariable = "THRESHOLD_TOKEN"
	// systemDataDir is where a node that runs as root keeps its keys.
	systemDataDir = "/var/lib/threshold-node"
	// defaultFile is read, if it exists, when the command line names neither a file nor a proxy.
	defaultFile = "/etc/threshold/node.yaml"
	// maxTokenFile bounds the file of a join token, in bytes.
	maxTokenFile = 4 << 10
)

// file is the content of the configuration file.
type file struct {
	Kind    string `yaml:"kind"    config:"required"` // node
	Version string `yaml:"version" config:"required"` // v1
	Spec    spec   `yaml:"spec"    config:"required"`
}

// spec is the part of the configuration file that configures the node. It has no field for the join token
// itself, which belongs in a file of its own.
type spec struct {
	Proxies   config.Strings    `yaml:"proxies"     config:"required"`
	TokenFile string            `yaml:"token_file"`
	Data      string            `yaml:"data"`
	Name      string            `yaml:"name"`
	Labels    map[string]string `yaml:"labels"`
	// HTTPSProxy is the URL of an HTTP proxy on the way to the cluster. Empty means HTTPS_PROXY of the
	// environment.
	HTTPSProxy string `yaml:"https_proxy"`
	// NoProxy lists the hosts that are reached without the HTTP proxy. Empty means NO_PROXY of the
	// environment.
	NoProxy string `yaml:"no_proxy"`
	// Log is the level and the format of the log. Flags override it.
	Log daemon.Log `yaml:"log"`
	// Health is an address on loopback where the agent answers /healthz and /readyz. Empty means that it
	// listens nowhere.
	Health string `yaml:"health"`
	// Drain is how long sessions may go on after SIGTERM or SIGINT. Zero means the setting drain; more than 1
	// h is refused.
	Drain time.Duration `yaml:"drain"`
}

// Check reports every value that has the right type and is wrong nevertheless. path names the field in the
// file, as "spec.labels". config.Decode calls it.
func (f file) Check(report func(path, format string, args ...any)) {
	if f.Kind != "" && f.Kind != "node" {
		report("kind", "is %q; the configuration of a node has kind: node", f.Kind)
	}
	if f.Version != "" && f.Version != "v1" {
		report("version", "is %q; this program knows v1", f.Version)
	}
	if err := identity.Labels(f.Spec.Labels).CheckSelf(); err != nil {
		report("spec.labels", "%v", err)
	}
	if f.Spec.Health != "" {
		if err := daemon.CheckHealthAddr(f.Spec.Health); err != nil {
			report("spec.health", "%v", err)
		}
	}
	if f.Spec.Drain > node.MaxDrain {
		report("spec.drain", "is %s; it must be at most %s", f.Spec.Drain, node.MaxDrain)
	}
}

// readFile reads the configuration file of that name and checks it. An empty name means that there is no
// file: the result is an empty spec. The error is a fault of kind Invalid that names everything that is wrong
// in the file.
func readFile(name string) (spec, error) {
	if name == "" {
		return spec{}, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return spec{}, nodeConfigUnreadable.Wrap(err, "", fault.Args{"file": name, "why": reason(err)})
	}
	var f file
	err = config.Decode(name, b, &f)
	return f.Spec, err
}

// nodeConfig returns the configuration of the node. A flag overrides the file, and the file overrides the
// environment. env returns a variable of the environment, as os.LookupEnv does. The caller sets Log and
// Version, and node.New checks the values. The error is a fault of kind Invalid: no proxy is configured, or
// there is no data directory, or the token cannot be read.
func (o *options) nodeConfig(fileSpec spec, env func(string) (string, bool)) (node.Config, error) {
	cfg := node.Config{
		Proxies: fileSpec.Proxies,
		Dir:     cmp.Or(o.data, fileSpec.Data),
		Name:    cmp.Or(o.name, fileSpec.Name),
		Labels:  identity.Labels(fileSpec.Labels),
		Drain:   fileSpec.Drain,
	}
	if len(o.proxies) > 0 {
		cfg.Proxies = o.proxies
	}
	if len(o.labels) > 0 {
		cfg.Labels = identity.Labels(o.labels)
	}
	for i, addr := range cfg.Proxies {
		cfg.Proxies[i] = withPort(addr)
	}
	if len(cfg.Proxies) == 0 {
		return node.Config{}, nodeProxyMissing.New("")
	}
	fromEnv := egress.ConfigFromEnv(func(name string) string {
		value, _ := env(name)
		return value
	})
	cfg.Egress = egress.Config{
		HTTPSProxy: cmp.Or(o.httpsProxy, fileSpec.HTTPSProxy),
		NoProxy:    fileSpec.NoProxy,
	}.WithDefaults(fromEnv)
	var err error
	if cfg.Dir == "" {
		if cfg.Dir, err = dataDir(os.Geteuid(), env); err != nil {
			return node.Config{}, err
		}
	}
	cfg.Token, err = o.joinToken(fileSpec.TokenFile, env)
	return cfg, err
}

// joinToken returns the join token, or "" if none is given: only the first start needs one. The first of
// these sources that is given counts: --token, --token-file, the token file that the configuration file names
// (configuredFile), the environment. A configured file may be missing, because an administrator should remove
// it after the join; a file of --token-file may not. The error is a fault of kind Invalid about the token
// file.
func (o *options) joinToken(configuredFile string, env func(string) (string, bool)) (string, error) {
	if o.token != "" {
		return o.token, nil
	}
	name := cmp.Or(o.tokenFile, configuredFile)
	if name == "" {
		token, _ := env(tokenVariable)
		return token, nil
	}
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist) && o.tokenFile == "":
		return "", nil
	case err != nil:
		return "", tokenFileUnreadable.Wrap(err, "", fault.Args{"file": name, "why": reason(err)})
	case len(b) > maxTokenFile:
		return "", tokenFileTooLarge.New("", fault.Args{"file": name})
	}
	return strings.TrimSpace(string(b)), nil
}

// dataDir returns the data directory if neither flags nor file name one: systemDataDir for root, otherwise a
// folder below the user's directory for state (XDG Base Directory Specification). The error is a fault of
// kind Invalid: the environment names no home directory.
func dataDir(uid int, env func(string) (string, bool)) (string, error) {
	if uid == 0 {
		return systemDataDir, nil
	}
	if dir, ok := env("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "threshold-node"), nil
	}
	if home, ok := env("HOME"); ok && filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "threshold-node"), nil
	}
	return "", nodeHomeMissing.New("")
}

// withPort returns the address of a proxy with port 443 if it has no port. It returns anything else as it is:
// node.New refuses what is no address.
func withPort(addr string) string {
	host := strings.Trim(addr, "[]")
	hasNoPort := !strings.Contains(host, ":") || net.ParseIP(host) != nil // an IPv6 address contains colons
	if hasNoPort && !strings.ContainsAny(addr, "/ ") {
		return net.JoinHostPort(host, "443")
	}
	return addr
}

// reason returns why a file cannot be read, without the name of the file, which the message has already.
func reason(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
