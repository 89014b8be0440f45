package session

// PID is the program's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// HelperPID is the child's number.
func (r *Sockets) HelperPID() int { return r.helper.cmd.Process.Pid }
