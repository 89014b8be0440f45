package process

import "github.com/threshold-access/threshold/node/account"

// PID returns the program's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// SetAccount makes signals be sent with the rights of another account.
func (p *Process) SetAccount(acc account.Account) { p.acc = acc }
