package identity

import "golang.org/x/crypto/ssh"

// HostKeys are what an SSH server shows of a host key that has a certificate, as OpenSSH's sshd does: the
// certificate first, and for clients that know no certificates of hosts, as Paramiko, the key alone. Those
// must be told of the key beforehand, or trust it at first sight. A client that does know certificates never
// chooses the key alone unless it was told to.
func HostKeys(host ssh.Signer) []ssh.Signer {
	if cert, ok := host.PublicKey().(*ssh.Certificate); ok {
		return []ssh.Signer{host, plainHostKey{host, cert.Key}}
	}
	return []ssh.Signer{host}
}

// plainHostKey signs as the key inside a certificate.
type plainHostKey struct {
	ssh.Signer
	key ssh.PublicKey
}

func (b plainHostKey) PublicKey() ssh.PublicKey { return b.key }
