package sshclient

import (
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
)

// ShellRequest asks for the login shell of the account (RFC 4254 section 6.5, as the next two).
func ShellRequest() dial.ChannelRequest { return dial.ChannelRequest{Type: "shell"} }

// ExecRequest asks for a command, which the login shell of the account interprets.
func ExecRequest(command string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "exec", Payload: ssh.Marshal(struct{ Command string }{command})}
}

// SubsystemRequest asks for a subsystem, such as sftp.
func SubsystemRequest(name string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "subsystem", Payload: ssh.Marshal(struct{ Name string }{name})}
}

// EnvRequest sets an environment variable of the program (RFC 4254 section 6.4). A node accepts or ignores
// it; tsh does not learn which.
func EnvRequest(name, value string) dial.ChannelRequest {
	payload := ssh.Marshal(struct{ Name, Value string }{name, value})
	return dial.ChannelRequest{Type: "env", Payload: payload}
}

// PTYRequest asks for a terminal (RFC 4254 section 6.2). terminalType is the value of TERM. The size in
// pixels is left out.
func PTYRequest(terminalType string, columns, rows int) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "pty-req", Payload: ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string // only TTY_OP_END: the node's defaults
	}{terminalType, uint32(columns), uint32(rows), 0, 0, "\x00"})}
}

// AgentRequest lets the program use the client's ssh-agent (OpenSSH PROTOCOL.agent).
func AgentRequest() dial.ChannelRequest {
	return dial.ChannelRequest{Type: "auth-agent-req@openssh.com"}
}
