package access

import "slices"

// Action is what a user may be allowed to do. Append only.
type Action string

// Actions on nodes.
const (
	List          Action = "list"
	Shell         Action = "shell"
	Exec          Action = "exec"
	SFTP          Action = "sftp"
	ForwardLocal  Action = "forward-local"
	ForwardRemote Action = "forward-remote"
	ForwardAgent  Action = "forward-agent"
)

// Actions on resources.
const (
	Get    Action = "get"
	Apply  Action = "apply"
	Remove Action = "rm"
)

// Object is what an action is done to. Its text is the field of a Grant that names such objects.
type Object string

const (
	OnNodes     Object = "nodes"
	OnResources Object = "resources"
)

// Extensions of SSH certificates that belong to actions (OpenSSH PROTOCOL.certkeys).
const (
	permitPTY             = "permit-pty"
	permitPortForwarding  = "permit-port-forwarding"
	permitAgentForwarding = "permit-agent-forwarding"
)

// ActionInfo is the row of one action in the registry.
type ActionInfo struct {
	Action Action
	On     Object
	// AsLogin says that the action is done as a login, over a connection to the node.
	AsLogin bool
	// Extension is the extension that the SSH certificates of users with the action have. Empty: none. A
	// certificate without it does not allow the action, except that a shell then has no terminal.
	Extension string
	Doc       string // what a user with the action can do; docs/cli.md has it
}

// actions is the registry: an action is added here, and nowhere else. Grants, the extensions of certificates,
// the checks against escalation, nodes and docs/cli.md use it. OnNodes comes first, and List first of all.
var actions = []ActionInfo{
	{List, OnNodes, false, "", "see that the node exists; part of every other action on it"},
	{Shell, OnNodes, true, permitPTY, "have a shell, with or without a terminal"},
	{Exec, OnNodes, true, "", "run one command, also `scp -O`, rsync and git"},
	{SFTP, OnNodes, true, "", "transfer files with scp and sftp"},
	{ForwardLocal, OnNodes, true, permitPortForwarding,
		"open connections from the node: `ssh -L`, `-D`, `-W`, and `-J` through it, to ports by host and to " +
			"Unix sockets by path. Link-local addresses and the metadata addresses of clouds are never reached"},
	{ForwardRemote, OnNodes, true, permitPortForwarding,
		"listen on the node for connections to the client: `ssh -R`, on loopback whatever address is " +
			"requested, on ports from 1024 unless the login is root, and on Unix sockets of the account only"},
	{ForwardAgent, OnNodes, true, permitAgentForwarding,
		"let the node use the client's ssh-agent: `ssh -A`, for the sessions that request it"},
	{Get, OnResources, false, "", "read documents of the kind"},
	{Apply, OnResources, false, "", "create and change documents of the kind"},
	{Remove, OnResources, false, "", "remove documents of the kind"},
}

// Actions returns the registry of actions. The caller may change the slice.
func Actions() []ActionInfo { return slices.Clone(actions) }

// ActionsOn lists the actions on nodes, or those on resources, in the order of the registry.
func ActionsOn(on Object) []Action {
	return namesOf(func(a ActionInfo) bool { return a.On == on })
}

// LoginActions lists the actions that are done as a login, over a connection to the node: all on nodes except
// List.
func LoginActions() []Action { return namesOf(func(a ActionInfo) bool { return a.AsLogin }) }

// Extension returns the extension of SSH certificates that belongs to the action. It is empty if there is
// none.
func (a Action) Extension() string {
	for _, info := range actions {
		if info.Action == a {
			return info.Extension
		}
	}
	return ""
}

// namesOf lists the actions whose rows has selects.
func namesOf(has func(ActionInfo) bool) []Action {
	var names []Action
	for _, info := range actions {
		if has(info) {
			names = append(names, info.Action)
		}
	}
	return names
}
