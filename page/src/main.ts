import { mount } from 'svelte';
import './page.css';
import App from './App.svelte';

export default mount(App, { target: document.getElementById('app')! });
