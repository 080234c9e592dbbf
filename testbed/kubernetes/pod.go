package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pod is one pod's life: a process that holds its namespaces, and one process for each container.
type pod struct {
	kubelet *kubelet
	object  *corev1.Pod
	address string
	cable   string
	folder  string
	ending  chan struct{}
	once    sync.Once
	mutex   sync.Mutex
	holder  *exec.Cmd
	running map[string]*container
	started metav1.Time
}

// container is one process of a pod, started again when it ends.
type container struct {
	process  *os.Process
	restarts int32
	exited   *int32
	since    metav1.Time
}

func newPod(k *kubelet, object *corev1.Pod, address, cable string) *pod {
	return &pod{
		kubelet: k, object: object, address: address, cable: cable,
		folder:  filepath.Join(k.settings.folder, "pods", string(object.UID)),
		ending:  make(chan struct{}),
		running: map[string]*container{},
	}
}

func (p *pod) name() string { return p.object.Namespace + "/" + p.object.Name }

// end asks the pod to end in its own time.
func (p *pod) end() { p.once.Do(func() { close(p.ending) }) }

// kill ends every process of the pod at once: they share the holder's process namespace.
func (p *pod) kill() {
	p.end()
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.holder != nil {
		_ = p.holder.Process.Kill()
	}
}

// live runs the pod from its first process to its last.
func (p *pod) live(ctx context.Context) {
	defer os.RemoveAll(p.folder)
	err := until(ctx, "the pod cannot be made", func() error {
		select {
		case <-p.ending:
			return nil
		default:
			return p.prepare(ctx)
		}
	})
	if err != nil {
		if ctx.Err() == nil {
			log.Printf("%s: %v", p.name(), err)
			p.report(ctx, corev1.PodFailed, err.Error())
		}
		return
	}
	p.started = metav1.Now()
	var containers sync.WaitGroup
	for _, spec := range p.object.Spec.Containers {
		containers.Add(1)
		go func() {
			defer containers.Done()
			p.keep(ctx, spec)
		}()
	}
	p.watch(ctx)
	p.finish(&containers)
	p.kubelet.remove(context.WithoutCancel(ctx), p.object.Namespace, p.object.Name, p.object.UID)
}

// watch keeps the Pod object true until the pod ends.
func (p *pod) watch(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	var last string
	for {
		ready := p.ready()
		if shown := fmt.Sprint(ready, p.restarts()); shown != last {
			phase := corev1.PodRunning
			if err := p.reportReady(ctx, phase, "", ready); err == nil {
				last = shown
			} else if ctx.Err() == nil {
				log.Printf("%s: its status cannot be written: %v", p.name(), err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-p.ending:
			return
		case <-tick.C:
		}
	}
}

// finish asks each process to end, waits for the pod's grace, then ends the holder and all with it.
func (p *pod) finish(containers *sync.WaitGroup) {
	p.mutex.Lock()
	for _, running := range p.running {
		if running.process != nil {
			_ = signalInside(running.process.Pid, syscall.SIGTERM)
		}
	}
	p.mutex.Unlock()
	ended := make(chan struct{})
	go func() { containers.Wait(); close(ended) }()
	grace := 30 * time.Second
	if seconds := p.object.Spec.TerminationGracePeriodSeconds; seconds != nil {
		grace = time.Duration(*seconds) * time.Second
	}
	select {
	case <-ended:
	case <-time.After(grace):
	}
	p.kill()
	if p.holder != nil {
		_ = p.holder.Wait()
	}
}

// signalInside reaches the command that nsenter started: its only child.
func signalInside(pid int, signal syscall.Signal) error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return err
	}
	var child int
	if _, err := fmt.Sscan(string(raw), &child); err != nil {
		return syscall.Kill(pid, signal)
	}
	return syscall.Kill(child, signal)
}

// ready asks every container's probe; a container without one is ready while it runs.
func (p *pod) ready() map[string]bool {
	ready := map[string]bool{}
	for _, spec := range p.object.Spec.Containers {
		p.mutex.Lock()
		running := p.running[spec.Name]
		runs := running != nil && running.process != nil
		p.mutex.Unlock()
		ready[spec.Name] = runs && p.probe(spec.ReadinessProbe)
	}
	return ready
}

func (p *pod) probe(probe *corev1.Probe) bool {
	if probe == nil {
		return true
	}
	const patience = time.Second
	switch {
	case probe.HTTPGet != nil:
		client := http.Client{Timeout: patience}
		port := probe.HTTPGet.Port.IntValue()
		response, err := client.Get(fmt.Sprintf("http://%s:%d%s", p.address, port, probe.HTTPGet.Path))
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode < 400
	case probe.TCPSocket != nil:
		address := net.JoinHostPort(p.address, fmt.Sprint(probe.TCPSocket.Port.IntValue()))
		connection, err := net.DialTimeout("tcp", address, patience)
		if err == nil {
			connection.Close()
		}
		return err == nil
	default:
		return true
	}
}

func (p *pod) restarts() int32 {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	var sum int32
	for _, running := range p.running {
		sum += running.restarts
	}
	return sum
}

func (p *pod) report(ctx context.Context, phase corev1.PodPhase, message string) {
	_ = p.reportReady(ctx, phase, message, nil)
}

func (p *pod) reportReady(
	ctx context.Context, phase corev1.PodPhase, message string, ready map[string]bool,
) error {
	pods := p.kubelet.client.CoreV1().Pods(p.object.Namespace)
	object, err := pods.Get(ctx, p.object.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if object.UID != p.object.UID {
		return nil
	}
	all := len(ready) > 0
	for _, one := range ready {
		all = all && one
	}
	status := &object.Status
	status.Phase, status.Message, status.StartTime = phase, message, &p.started
	status.PodIP, status.PodIPs = p.address, []corev1.PodIP{{IP: p.address}, {IP: sixOf(p.address)}}
	status.HostIP = p.kubelet.settings.address
	status.Conditions = p.conditions(object.Status.Conditions, all)
	status.ContainerStatuses = p.containerStatuses(ready)
	_, err = pods.UpdateStatus(ctx, object, metav1.UpdateOptions{})
	return err
}

func (p *pod) conditions(old []corev1.PodCondition, ready bool) []corev1.PodCondition {
	state := func(kind corev1.PodConditionType, holds bool) corev1.PodCondition {
		status := corev1.ConditionFalse
		if holds {
			status = corev1.ConditionTrue
		}
		for _, known := range old {
			if known.Type == kind && known.Status == status {
				return known
			}
		}
		return corev1.PodCondition{Type: kind, Status: status, LastTransitionTime: metav1.Now()}
	}
	return []corev1.PodCondition{
		state(corev1.PodScheduled, true), state(corev1.PodInitialized, true),
		state(corev1.ContainersReady, ready), state(corev1.PodReady, ready),
	}
}

func (p *pod) containerStatuses(ready map[string]bool) []corev1.ContainerStatus {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	var statuses []corev1.ContainerStatus
	for _, spec := range p.object.Spec.Containers {
		status := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, ImageID: spec.Image, Ready: ready[spec.Name]}
		running := p.running[spec.Name]
		started := running != nil && running.process != nil
		status.Started = &started
		switch {
		case started:
			status.State.Running = &corev1.ContainerStateRunning{StartedAt: running.since}
		case running != nil && running.exited != nil:
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
			status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: *running.exited}
		default:
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
		}
		if running != nil {
			status.RestartCount = running.restarts
		}
		statuses = append(statuses, status)
	}
	return statuses
}
