package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/sshclient"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// configCmd is "tsh config". With the configuration that it prints, OpenSSH's ssh, scp and sftp reach nodes,
// and so does everything that runs them, such as rsync and Ansible.
func (a *app) configCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "config",
		Short:   "Print an OpenSSH configuration for the cluster's nodes",
		GroupID: everyday,
		Args:    noArgs("leave %s out"),
		Example: `  tsh config > ~/.ssh/threshold.conf
  # then write, at the top of ~/.ssh/config: Include threshold.conf
  ssh ubuntu@web-1.CLUSTER`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runConfig(cmd.Context()) },
	}
}

// runConfig prints the configuration for the current login to standard output. If the auth service does not
// list the nodes, it says so on standard error and leaves out the bare names; names in the cluster's domain
// still work. A user whose roles allow no login gets a Denied fault.
func (a *app) runConfig(ctx context.Context) error {
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	if prof.SSHCert == nil {
		return noLoginsFault(prof)
	}
	tshPath, err := os.Executable()
	if err != nil {
		return programPathUnknown.Wrap(err, "")
	}
	names, err := a.bareNames(ctx, prof)
	if err != nil {
		fmt.Fprintf(
			a.Stderr,
			"tsh: the auth service did not list the nodes, so only names as NODE.%s will work: %s\n",
			prof.Cluster,
			terminal.Clean(fault.Message(err)),
		)
	}
	return a.writeSSHConfig(a.Stdout, prof, tshPath, names)
}

// noLoginsFault is the error of a user whose roles allow no login on any node.
func noLoginsFault(prof *profile.Profile) error {
	return loginsNoneForNodes.New("", fault.Args{"user": prof.User})
}

// sshConfig is the format of the configuration; writeSSHConfig lists its arguments. It has two blocks. The
// first is for nodes by their names in the cluster's domain: tsh is the ProxyCommand. The second is for the
// proxy itself and for nodes by their bare names, so that "ssh -J proxy:port login@node" works through the
// proxy's own SSH server. The second block adds only keys and known hosts: without -J ssh looks a bare name
// up as before, so that no node can attract connections by its name.
const sshConfig = `# Nodes of cluster %[1]s, through %[2]s. Written by: tsh config
#   ssh LOGIN@NODE.%[1]s
#   ssh -J %[2]s LOGIN@NODE        # does not use tsh
Host *.%[1]s
    ProxyCommand %[3]s proxy ssh %[8]s '%%h'
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

// fastCiphers puts AES-GCM before ChaCha20, which OpenSSH prefers up to release 10.0. The rest of its list is
// unchanged.
const fastCiphers = "    Ciphers ^aes128-gcm@openssh.com,aes256-gcm@openssh.com\n"

// maxBareNames bounds how many node names the configuration lists.
const maxBareNames = 1000

// bareNames returns the names of the nodes that the user can log in to, at most maxBareNames. It leaves out
// names with a dot, which the pattern for bare names in known_hosts does not match, and names that are not
// valid, which could add lines to the configuration.
func (a *app) bareNames(ctx context.Context, prof *profile.Profile) ([]string, error) {
	nodes, err := a.nodes(ctx, prof, nil)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, node := range nodes {
		isBare := identity.CheckMachineName(node.Name) == nil && !strings.Contains(node.Name, ".")
		if len(node.Logins) > 0 && isBare && len(names) < maxBareNames {
			names = append(names, node.Name)
		}
	}
	return names, nil
}

// writeSSHConfig writes the configuration for ssh(1). tshPath is the path of tsh; names are the bare node
// names for the second block.
func (a *app) writeSSHConfig(w io.Writer, prof *profile.Profile, tshPath string, names []string) error {
	command := shellQuote(tshPath)
	if a.Getenv("TSH_HOME") != "" {
		command = "env TSH_HOME=" + shellQuote(string(prof.Home)) + " " + command
	}
	selection := "--cluster " + prof.Cluster
	if a.proxy != "" {
		selection += " --proxy " + shellWord(prof.FirstProxy().Address)
	}
	var hosts []string
	for _, proxy := range prof.Proxies {
		hosts = append(hosts, proxy.Host())
	}
	ciphers := ""
	if sshclient.HasAES() {
		ciphers = fastCiphers
	}
	_, err := fmt.Fprintf(
		w,
		sshConfig,
		prof.Cluster,                           // 1
		prof.FirstProxy().Address,              // 2
		strings.ReplaceAll(command, "%", "%%"), // 3: ssh_config(5) expands % in a ProxyCommand
		configQuote(prof.Path(profile.SSHKeyFile)),     // 4
		configQuote(prof.Path(profile.SSHCertFile)),    // 5
		configQuote(prof.Path(profile.KnownHostsFile)), // 6
		strings.Join(append(hosts, names...), " "),     // 7: the hosts of the second block
		selection, // 8: in the ProxyCommand
		ciphers,   // 9
	)
	return stdoutFault(err)
}

// shellQuote makes s one word for sh, which runs a ProxyCommand.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// shellWord returns addr as one word for sh. It quotes addr only if a character in it has a meaning for the
// shell, as the brackets of an IPv6 address have.
func shellWord(addr string) string {
	special := func(r rune) bool {
		isLetter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		return !isLetter && !(r >= '0' && r <= '9') && !strings.ContainsRune(".:-", r)
	}
	if strings.ContainsFunc(addr, special) {
		return shellQuote(addr)
	}
	return addr
}

// configQuote makes s one word of ssh_config(5): in quotes and without percent tokens.
func configQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}
