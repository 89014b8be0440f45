package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

func (a *app) configCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "config",
		Short:   "Print the OpenSSH configuration for the cluster's nodes",
		GroupID: everyday,
		Args:    noArgs("leave %s out"),
		Example: `  tsh config > ~/.ssh/threshold.conf     # then, at the top of ~/.ssh/config: Include threshold.conf
  ssh ubuntu@web-1.CLUSTER`,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := a.currentLogin()
			if err != nil {
				return err
			}
			if p.SSHCert == nil {
				return fault.New(
					fault.Denied,
					"",
					"no role of "+p.User+" lets you log in to any node",
					"ask an administrator for a role, then run: tsh login",
				)
			}
			self, err := os.Executable()
			if err != nil {
				return fault.Wrap(
					err,
					fault.Internal,
					"",
					"tsh does not know where it lies",
					"call it by its whole path",
				)
			}
			names, err := a.bareNames(c.Context(), p)
			if err != nil {
				fmt.Fprintf(
					a.Stderr,
					"tsh: auth does not answer, so nodes are known by NODE.%s alone: %s\n",
					p.Cluster,
					clean(fault.Message(err)),
				)
			}
			return a.writeSSHConfig(a.Stdout, p, self, names)
		},
	}
}

// sshConfig has a block for nodes by their names in the cluster's domain, by way of tsh, and one for the
// proxy itself and for nodes by their bare names, so that "ssh -J proxy:port login@node" works by way of the
// proxy's own SSH front. The second block only adds keys and known hosts: what a bare name means without -J
// stays as it was, so no node can draw connections to itself by its name.
const sshConfig = `# Nodes of cluster %[1]s, by way of %[2]s. Written by: tsh config
#   ssh LOGIN@NODE.%[1]s
#   ssh -J %[2]s LOGIN@NODE        without tsh on the way
Host *.%[1]s
    ProxyCommand %[3]s proxy ssh --proxy %[8]s '%%h'
    IdentityFile %[4]s
    CertificateFile %[5]s
    IdentitiesOnly yes
    UserKnownHostsFile %[6]s
    StrictHostKeyChecking yes
%[9]s
Host %[7]s
    IdentityFile %[4]s
    CertificateFile %[5]s
    IdentitiesOnly yes
    UserKnownHostsFile %[6]s ~/.ssh/known_hosts ~/.ssh/known_hosts2
`

// fastCiphers puts AES-GCM before ChaCha20, which OpenSSH prefers up to its release 10.0; the rest of its
// list stays as it was.
const fastCiphers = "    Ciphers ^aes128-gcm@openssh.com,aes256-gcm@openssh.com\n"

// maxBareNames bounds the line of names.
const maxBareNames = 1000

// bareNames lists the nodes that the person may log in to whose names have no dot: those that known_hosts has
// a pattern for.
func (a *app) bareNames(ctx context.Context, p *profile.Profile) ([]string, error) {
	nodes, err := a.nodes(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range nodes {
		if len(n.Logins) > 0 && identity.CheckMachineName(n.Name) == nil && !strings.Contains(n.Name, ".") &&
			len(names) < maxBareNames {
			names = append(names, n.Name)
		}
	}
	return names, nil
}

func (a *app) writeSSHConfig(w io.Writer, p *profile.Profile, self string, names []string) error {
	command := shellQuote(self)
	if a.Getenv("TSH_HOME") != "" {
		command = "env TSH_HOME=" + shellQuote(filepath.Dir(p.Dir)) + " " + command
	}
	hosts := strings.Join(append([]string{p.Host()}, names...), " ")
	faster := ""
	if hasAES() {
		faster = fastCiphers
	}
	_, err := fmt.Fprintf(
		w,
		sshConfig,
		p.Cluster,
		p.Proxy,
		strings.ReplaceAll(command, "%", "%%"),
		configQuote(p.Path(profile.SSHKeyFile)),
		configQuote(
			p.Path(profile.SSHCertFile),
		),
		configQuote(p.Path(profile.KnownHostsFile)),
		hosts,
		shellWord(p.Proxy),
		faster,
	)
	return fault.Wrap(
		err,
		fault.Internal,
		"",
		"the answer cannot be written",
		"look at where standard output leads",
	)
}

// shellQuote makes one word for sh, which runs a ProxyCommand.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// shellWord quotes an address only where a shell could read more in it than a word, such as a pattern in the
// brackets of IPv6.
func shellWord(addr string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune(".:-", r)
	}
	if strings.ContainsFunc(addr, func(r rune) bool { return !plain(r) }) {
		return shellQuote(addr)
	}
	return addr
}

// configQuote makes one word of ssh_config: quoted, and without tokens.
func configQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}
