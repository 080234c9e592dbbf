package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the holder of a pod's namespaces is told, on its command line.
type rootPlan struct {
	Root     string
	Name     string
	DNS      string
	Search   string
	ReadOnly bool
	// Source and target of each: programs and volumes.
	Binds [][2]string
}

// prepare makes the pod's namespaces, its root and its address.
func (p *pod) prepare(ctx context.Context) error {
	plan := rootPlan{
		Root: filepath.Join(p.folder, "root"), Name: p.object.Name, DNS: p.nameServer(),
		Search:   fmt.Sprintf("%s.svc.%s svc.%[2]s %[2]s", p.object.Namespace, clusterDomain),
		ReadOnly: true,
	}
	if err := os.MkdirAll(plan.Root, 0o755); err != nil {
		return err
	}
	volumes := map[string]string{}
	for _, volume := range p.object.Spec.Volumes {
		folder := filepath.Join(p.folder, "volumes", volume.Name)
		if claim := volume.PersistentVolumeClaim; claim != nil {
			// A claim is a folder that outlives the pod; nothing binds it to anything.
			folder = filepath.Join(p.kubelet.settings.folder, "claims", p.object.Namespace, claim.ClaimName)
		}
		if err := p.fill(ctx, folder, volume); err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
		if whole := p.object.Spec.SecurityContext; whole != nil && whole.FSGroup != nil {
			if err := ownedBy(folder, int(*whole.FSGroup)); err != nil {
				return err
			}
		}
		volumes[volume.Name] = folder
	}
	for _, container := range p.object.Spec.Containers {
		program, known := p.kubelet.settings.images.program(container.Image)
		if known {
			plan.Binds = append(plan.Binds, [2]string{program, program})
		} else if len(container.Command) == 0 {
			return fmt.Errorf("image %s stands for no program", container.Image)
		}
		for _, mount := range container.VolumeMounts {
			plan.Binds = append(plan.Binds, [2]string{filepath.Join(volumes[mount.Name], mount.SubPath), mount.MountPath})
		}
		security := container.SecurityContext
		read := security != nil && security.ReadOnlyRootFilesystem != nil && *security.ReadOnlyRootFilesystem
		plan.ReadOnly = plan.ReadOnly && read
	}
	holder, err := startHolder(plan)
	if err != nil {
		return err
	}
	if err := connectPod(holder.Process.Pid, p.cable, p.address); err != nil {
		_ = holder.Process.Kill()
		_ = holder.Wait()
		return err
	}
	p.mutex.Lock()
	p.holder = holder
	p.mutex.Unlock()
	return nil
}

// The cluster's own DNS server asks whom the machine asks, which here is nobody.
func (p *pod) nameServer() string {
	if p.object.Spec.DNSPolicy == corev1.DNSDefault {
		return "127.0.0.1"
	}
	return dnsIP
}

// ownedBy gives a volume to the pod's group, as Kubernetes does.
func ownedBy(folder string, group int) error {
	if err := os.Chown(folder, -1, group); err != nil {
		return err
	}
	return os.Chmod(folder, 0o2775)
}

func startHolder(plan rootPlan) (*exec.Cmd, error) {
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	holder := exec.Command("/proc/self/exe", "pause", string(text))
	holder.Stderr = os.Stderr
	holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
	}
	told, err := holder.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := holder.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(told).ReadString('\n')
	if err != nil || line != "ready\n" {
		_ = holder.Process.Kill()
		_ = holder.Wait()
		return nil, fmt.Errorf("the pod's root cannot be made: %q, %v", line, err)
	}
	return holder, nil
}

// fill writes a volume's files as they are at this moment.
func (p *pod) fill(ctx context.Context, folder string, volume corev1.Volume) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	switch {
	case volume.EmptyDir != nil:
		return os.Chmod(folder, 0o777)
	case volume.PersistentVolumeClaim != nil:
		return nil
	case volume.ConfigMap != nil:
		return p.fillConfigMap(ctx, folder, volume.ConfigMap.Name, volume.ConfigMap.Items)
	case volume.Secret != nil:
		secret, err := p.kubelet.client.CoreV1().Secrets(p.object.Namespace).
			Get(ctx, volume.Secret.SecretName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return write(folder, secret.Data, volume.Secret.Items)
	case volume.Projected != nil:
		for _, source := range volume.Projected.Sources {
			if err := p.project(ctx, folder, source); err != nil {
				return err
			}
		}
		return nil
	default:
		return errors.New("a volume of this kind is not served")
	}
}

func (p *pod) fillConfigMap(ctx context.Context, folder, name string, items []corev1.KeyToPath) error {
	found, err := p.kubelet.client.CoreV1().ConfigMaps(p.object.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	data := map[string][]byte{}
	for key, text := range found.Data {
		data[key] = []byte(text)
	}
	return write(folder, data, items)
}

func (p *pod) project(ctx context.Context, folder string, source corev1.VolumeProjection) error {
	switch {
	case source.ServiceAccountToken != nil:
		wish := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: source.ServiceAccountToken.ExpirationSeconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{
				Kind: "Pod", APIVersion: "v1", Name: p.object.Name, UID: p.object.UID,
			},
		}}
		if audience := source.ServiceAccountToken.Audience; audience != "" {
			wish.Spec.Audiences = []string{audience}
		}
		given, err := p.kubelet.client.CoreV1().ServiceAccounts(p.object.Namespace).
			CreateToken(ctx, p.object.Spec.ServiceAccountName, wish, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		path := filepath.Join(folder, source.ServiceAccountToken.Path)
		return os.WriteFile(path, []byte(given.Status.Token), 0o644)
	case source.ConfigMap != nil:
		return p.fillConfigMap(ctx, folder, source.ConfigMap.Name, source.ConfigMap.Items)
	case source.DownwardAPI != nil:
		for _, item := range source.DownwardAPI.Items {
			text := p.field(item.FieldRef.FieldPath)
			if err := os.WriteFile(filepath.Join(folder, item.Path), []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func write(folder string, data map[string][]byte, items []corev1.KeyToPath) error {
	paths := map[string]string{}
	for key := range data {
		paths[key] = key
	}
	if len(items) > 0 {
		paths = map[string]string{}
		for _, item := range items {
			paths[item.Key] = item.Path
		}
	}
	for key, path := range paths {
		if err := os.WriteFile(filepath.Join(folder, path), data[key], 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (p *pod) field(path string) string {
	switch path {
	case "metadata.name":
		return p.object.Name
	case "metadata.namespace":
		return p.object.Namespace
	case "metadata.uid":
		return string(p.object.UID)
	case "spec.nodeName":
		return p.kubelet.settings.name
	case "spec.serviceAccountName":
		return p.object.Spec.ServiceAccountName
	case "status.podIP":
		return p.address
	case "status.hostIP":
		return p.kubelet.settings.address
	default:
		return ""
	}
}

// keep runs a container's process, and again when it ends, until the pod ends.
func (p *pod) keep(ctx context.Context, spec corev1.Container) {
	for restarts := int32(0); ; restarts++ {
		child, err := p.launch(spec)
		if err != nil {
			log.Printf("%s: container %s: %v", p.name(), spec.Name, err)
		} else {
			p.mutex.Lock()
			p.running[spec.Name] = &container{process: child.Process, restarts: restarts, since: metav1.Now()}
			p.mutex.Unlock()
			err = child.Wait()
			code := int32(child.ProcessState.ExitCode())
			p.mutex.Lock()
			p.running[spec.Name] = &container{restarts: restarts, exited: &code}
			p.mutex.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-p.ending:
			return
		case <-time.After(time.Second):
			log.Printf("%s: container %s ended (%v) and is started again", p.name(), spec.Name, err)
		}
	}
}

func (p *pod) launch(spec corev1.Container) (*exec.Cmd, error) {
	words := append(append([]string{}, spec.Command...), spec.Args...)
	if program, known := p.kubelet.settings.images.program(spec.Image); known && len(spec.Command) == 0 {
		words = append([]string{program}, spec.Args...)
	}
	for at, word := range words {
		words[at] = p.expand(word, spec)
	}
	child := exec.Command("nsenter", p.inside(spec, words)...)
	out, err := os.OpenFile(p.log(spec.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	child.Stdout, child.Stderr = out, out
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := child.Start(); err != nil {
		return nil, err
	}
	pid := []byte(fmt.Sprintln(child.Process.Pid))
	return child, os.WriteFile(strings.TrimSuffix(p.log(spec.Name), "log")+"pid", pid, 0o644)
}

// log is where a container's output goes; it stays when the pod has gone.
func (p *pod) log(container string) string {
	return filepath.Join(p.kubelet.settings.folder,
		fmt.Sprintf("pod-%s-%s-%s.log", p.object.Namespace, p.object.Name, container))
}

// stands is whether there is something to be inside of.
func (p *pod) stands() bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.holder != nil && p.holder.Process != nil
}

// inside are the words after `nsenter` that run a command in the pod as the container's user.
func (p *pod) inside(spec corev1.Container, words []string) []string {
	p.mutex.Lock()
	target := strconv.Itoa(p.holder.Process.Pid)
	p.mutex.Unlock()
	command := []string{"-t", target, "-m", "-n", "-p", "-u", "-r", "-w", "--", "env", "-i"}
	command = append(command, p.environment(spec)...)
	user, group := p.user(spec)
	if user != 0 {
		command = append(command, "setpriv", fmt.Sprintf("--reuid=%d", user), fmt.Sprintf("--regid=%d", group),
			"--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")
	}
	return append(command, words...)
}

func (p *pod) user(spec corev1.Container) (user, group int64) {
	if whole := p.object.Spec.SecurityContext; whole != nil && whole.RunAsUser != nil {
		user = *whole.RunAsUser
	}
	if own := spec.SecurityContext; own != nil && own.RunAsUser != nil {
		user = *own.RunAsUser
	}
	return user, user
}

func (p *pod) environment(spec corev1.Container) []string {
	path := "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
	if program, known := p.kubelet.settings.images.program(spec.Image); known {
		path = filepath.Dir(program) + ":" + path
	}
	variables := []string{
		"PATH=" + path,
		"HOSTNAME=" + p.object.Name,
		"KUBERNETES_SERVICE_HOST=" + kubernetesIP, "KUBERNETES_SERVICE_PORT=443",
	}
	for _, variable := range spec.Env {
		variables = append(variables, variable.Name+"="+p.value(variable))
	}
	return variables
}

func (p *pod) value(variable corev1.EnvVar) string {
	if from := variable.ValueFrom; from != nil && from.FieldRef != nil {
		return p.field(from.FieldRef.FieldPath)
	}
	return variable.Value
}

// expand replaces $(NAME) by the container's variable, as Kubernetes does.
func (p *pod) expand(word string, spec corev1.Container) string {
	for _, variable := range spec.Env {
		word = strings.ReplaceAll(word, "$("+variable.Name+")", p.value(variable))
	}
	return word
}
