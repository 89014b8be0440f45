package tsh

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
)

func (a *app) configCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "config",
		Short:   "Print the OpenSSH configuration for the cluster's nodes",
		GroupID: everyday,
		Args:    cobra.NoArgs,
		Example: `  tsh config > ~/.ssh/threshold.conf     # then, at the top of ~/.ssh/config: Include threshold.conf
  ssh ubuntu@web-1.CLUSTER`,
		RunE: func(*cobra.Command, []string) error {
			p, err := a.login()
			if err != nil {
				return err
			}
			if p.SSHCert == nil {
				return fault.New(fault.Denied, "", "no role of "+p.User+" lets you log in to any node", "ask an administrator for a role, then run: tsh login")
			}
			self, err := os.Executable()
			if err != nil {
				return fault.Wrap(err, fault.Internal, "", "tsh does not know where it lies", "call it by its whole path")
			}
			return a.writeSSHConfig(a.Stdout, p, self)
		},
	}
}

// sshConfig has two blocks: nodes by their names in the cluster's domain, by way of tsh; and the proxy itself, so that
// "ssh -J proxy:port login@node.cluster" goes by way of the proxy's own SSH front. The second block only adds files: the proxy's host
// may be in use for other things.
const sshConfig = `# Nodes of cluster %[1]s, by way of %[2]s. Written by: tsh config
#   ssh LOGIN@NODE.%[1]s
#   ssh -J %[2]s LOGIN@NODE.%[1]s        without tsh on the way
Host *.%[1]s
    ProxyCommand %[3]s proxy ssh --proxy %[2]s %%h
    IdentityFile %[4]s
    CertificateFile %[5]s
    IdentitiesOnly yes
    UserKnownHostsFile %[6]s
    StrictHostKeyChecking yes

Host %[7]s
    IdentityFile %[4]s
    CertificateFile %[5]s
    UserKnownHostsFile %[6]s ~/.ssh/known_hosts ~/.ssh/known_hosts2
`

func (a *app) writeSSHConfig(w io.Writer, p *profile.Profile, self string) error {
	command := shellQuote(self)
	if dir := a.Getenv("TSH_HOME"); dir != "" {
		command = "env TSH_HOME=" + shellQuote(string(mustHome(a))) + " " + command
	}
	_, err := fmt.Fprintf(w, sshConfig, p.Cluster, p.Proxy, strings.ReplaceAll(command, "%", "%%"), configQuote(p.Path(profile.SSHKeyFile)),
		configQuote(p.Path(profile.SSHCertFile)), configQuote(p.Path(profile.KnownHostsFile)), p.Host())
	return fault.Wrap(err, fault.Internal, "", "the answer cannot be written", "look at where standard output leads")
}

func mustHome(a *app) profile.Home {
	h, _ := a.home() // the profile was found in it
	return h
}

// shellQuote makes one word for sh, which runs a ProxyCommand.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// configQuote makes one word of ssh_config: quoted, and without tokens.
func configQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}
