package tsh

import (
	"context"
	"fmt"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/sshclient"
)

// connect opens an SSH connection to the node, verified end to end. A whole node name, the usual case, needs
// no call of the auth service. A first label or a machine's id is looked up there. With quiet, a banner is
// not printed.
func (a *app) connect(
	ctx context.Context,
	prof *profile.Profile,
	dest destination,
	quiet bool,
) (*sshclient.Client, error) {
	if prof.SSHCert == nil {
		return nil, noLoginsFault(prof)
	}
	login, err := a.chooseLogin(prof, dest.login)
	if err != nil {
		return nil, err
	}
	name := dest.node
	if machineID.MatchString(name) {
		node, err := a.resolve(ctx, prof, name)
		if err != nil {
			return nil, err
		}
		name = node.Name
	}
	client, err := a.connectTo(ctx, prof, login, name)
	if err != nil {
		if name, err = a.resolveAfterRefusal(ctx, prof, name, err); err != nil {
			return nil, err
		}
		if client, err = a.connectTo(ctx, prof, login, name); err != nil {
			return nil, err
		}
	}
	if banner := client.Banner(); banner != "" && !quiet {
		fmt.Fprintln(a.Stderr, banner)
	}
	return client, nil
}

// connectTo opens an SSH connection to the node with this whole name.
func (a *app) connectTo(
	ctx context.Context,
	prof *profile.Profile,
	login identity.Login,
	name string,
) (*sshclient.Client, error) {
	conn, err := a.dialNode(ctx, prof, name)
	if err != nil {
		return nil, err
	}
	return sshclient.Connect(ctx, conn, sshclient.Config{
		Node:            name,
		Login:           login,
		Key:             prof.SSHKey,
		Cert:            prof.SSHCert,
		HostAuthorities: prof.Authorities.HostSSH,
		Now:             a.Now,
		Refused:         conn.refused,
	})
}
