package tsh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/tsh/profile"
)

const (
	// agentTime bounds all talk with ssh-agent.
	agentTime = 5 * time.Second
	// maxDestinations keeps the message to ssh-agent under its 256 KiB (OpenSSH, AGENT_MAX_LEN): about 150
	// bytes each.
	maxDestinations = 1000
	// restrictDestination is OpenSSH's constraint (PROTOCOL.agent section 2), since 8.9.
	restrictDestination = "restrict-destination-v00@openssh.com"
)

// updateAgent puts the new key and certificate in place of the old ones in ssh-agent. mode is auto, yes or
// no. A login does not fail because of it: tsh itself uses the files.
func (a *app) updateAgent(ctx context.Context, mode string, old, p *profile.Profile) {
	if old != nil {
		a.removeAgentKeys(old.Info)
	}
	if mode == "no" || p.SSHCert == nil || a.Getenv("SSH_AUTH_SOCK") == "" {
		return
	}
	if err := a.addToAgent(ctx, mode, p); err != nil {
		fmt.Fprintf(a.Stderr, "Not loaded into ssh-agent: %s.\n", clean(err.Error()))
	}
}

func (a *app) addToAgent(ctx context.Context, mode string, p *profile.Profile) error {
	key := agent.AddedKey{PrivateKey: p.SSHKey, Certificate: p.SSHCert, Comment: agentComment(p.Info),
		LifetimeSecs: uint32(max(1, p.Expires.Sub(a.Now())/time.Second))}
	restricted, err := a.restrictKey(ctx, p, key)
	if err == nil {
		if err = a.withAgent(func(c agent.ExtendedAgent) error { return c.Add(restricted) }); err == nil {
			return nil
		}
		err = errors.New(
			"this agent cannot forbid onward hops (--add-keys-to-agent=yes loads the key all the same)",
		)
	}
	if mode != "yes" {
		return err
	}
	if err := a.withAgent(func(c agent.ExtendedAgent) error { return c.Add(key) }); err != nil {
		return err
	}
	fmt.Fprintln(
		a.Stderr,
		"Loaded into ssh-agent without a limit on destinations: forward this agent to no machine that you do not trust.",
	)
	return nil
}

// restrictKey limits a key to connections from this machine to the nodes the person may be on, and to the
// proxy. A forwarded agent can then not be used for an onward hop. OpenSSH compares whole host names, so each
// node is named; one that joins later is reached with the key file.
func (a *app) restrictKey(
	ctx context.Context,
	p *profile.Profile,
	key agent.AddedKey,
) (agent.AddedKey, error) {
	nodes, err := a.nodes(ctx, p, nil)
	if err != nil {
		return key, err
	}
	hosts := []string{p.Host()}
	for _, n := range nodes {
		if len(n.Logins) > 0 {
			hosts = append(hosts, n.Name+"."+p.Cluster)
		}
	}
	if len(hosts) > maxDestinations {
		return key, fmt.Errorf("%d nodes are more destinations than an agent can hold", len(hosts)-1)
	}
	key.ConstraintExtensions = []agent.ConstraintExtension{
		{ExtensionName: restrictDestination, ExtensionDetails: destinations(hosts, p.Authorities.HostSSH)},
	}
	return key, nil
}

// hop is one end of a constraint. Keys follows as pairs of key and "is an authority".
type hop struct {
	User     string
	Host     string
	Reserved string
	Keys     []byte `ssh:"rest"`
}

type destination struct {
	From     []byte // empty hop: this machine
	To       []byte
	Reserved string
}

// destinations encodes "from here to each host, which an authority must vouch for" (OpenSSH ssh-agent.c,
// parse_dest_constraint).
func destinations(hosts []string, authorities []ssh.PublicKey) []byte {
	var keys []byte
	for _, k := range authorities {
		keys = append(keys, ssh.Marshal(struct {
			Key         []byte
			IsAuthority bool
		}{k.Marshal(), true})...)
	}
	from := ssh.Marshal(hop{})
	var list []byte
	for _, h := range hosts {
		d := ssh.Marshal(destination{From: from, To: ssh.Marshal(hop{Host: h, Keys: keys})})
		list = append(list, ssh.Marshal(struct{ B []byte }{d})...)
	}
	return list
}

// removeAgentKeys removes every key that a login at the cluster put into ssh-agent. Without an agent there is
// nothing to do.
func (a *app) removeAgentKeys(i profile.Info) {
	if a.Getenv("SSH_AUTH_SOCK") == "" {
		return
	}
	err := a.withAgent(func(c agent.ExtendedAgent) error {
		keys, err := c.List()
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Comment == agentComment(i) {
				err = errors.Join(err, c.Remove(k))
			}
		}
		return err
	})
	if err != nil {
		fmt.Fprintf(
			a.Stderr,
			"ssh-agent could not be asked to drop the key (%s); it drops it when the certificate ends.\n",
			clean(err.Error()),
		)
	}
}

func agentComment(i profile.Info) string { return "tsh " + i.User + " at " + i.Proxy }

func (a *app) withAgent(fn func(agent.ExtendedAgent) error) error {
	conn, err := net.DialTimeout("unix", a.Getenv("SSH_AUTH_SOCK"), agentTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(agentTime)); err != nil {
		return err
	}
	return fn(agent.NewClient(conn))
}
